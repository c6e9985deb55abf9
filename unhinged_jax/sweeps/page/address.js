/* The address of the page: what differs from the start, by names, so that it can be kept and sent. */
const axisName = d => (d < 0 ? "none" : D.axes[d].name);
const axisOfName = (name, known) => {
  const d = D.axes.findIndex(a => a.name === name);
  return known.includes(d) ? d : undefined;
};
const among = (...allowed) => [v => v, v => (allowed.includes(v) ? v : undefined)];
const anAxis = [axisName, v => (v === "none" ? -1 : axisOfName(v, mapped))];
const aColumn = [v => v, v => column(v)?.name];
const yes = [v => (v ? "yes" : "no"), v => v === "yes"];
const placesText = at => at.join(".");
const placesOf = text => {
  const at = text.split(".").map(Number);
  return at.length === sizes.length && at.every((p, d) => Number.isInteger(p) && p >= 0 && p < sizes[d])
    ? at
    : undefined;
};
const ADDRESS = {
  view: [v => v, v => VIEWS.find(([name, , offered]) => name === v && offered())?.[0]],
  observable: [
    k => D.observed[k].name,
    v => {
      const k = D.observed.findIndex(o => o.name === v);
      return k < 0 ? undefined : k;
    },
  ],
  x: anAxis,
  y: anAxis,
  panels: anAxis,
  over: anAxis,
  across: aColumn,
  up: aColumn,
  shade: aColumn,
  seeds: yes,
  down: yes,
  time: [
    i => String(i),
    v => {
      const i = Number(v);
      return Number.isInteger(i) && i >= 0 && i < T ? i : undefined;
    },
  ],
  scale: among("free", "fixed"),
  values: among("automatic", "linear", "logarithmic", "centred"),
  theme: among("automatic", "light", "dark"),
  search: [v => v, v => v],
  sort: [v => v, v => column(v)?.name],
  at: [placesText, placesOf],
  pins: [
    pins => pins.map(p => placesText(places(p))).join("-"),
    v => [...new Set(v.split("-").map(placesOf).filter(Boolean).map(number))].slice(0, PINS),
  ],
};
let written = null,
  waits = 0;
const writeAddress = () => {
  clearTimeout(waits); // browsers allow only so many changes of the address in a second
  waits = setTimeout(() => {
    const held = new URLSearchParams();
    for (const [key, [write]] of Object.entries(ADDRESS))
      if (write(S[key]) !== write(START[key])) held.set(key, write(S[key]));
    written = held.toString() ? `#${held}` : "#";
    try {
      history.replaceState(null, "", written);
    } catch {
      location.replace(written);
    }
  }, 150);
};
const readAddress = () => {
  const held = new URLSearchParams(location.hash.slice(1));
  Object.assign(S, START, { at: [...START.at], pins: [] });
  for (const [key, [, read]] of Object.entries(ADDRESS)) {
    const found = held.has(key) ? read(held.get(key)) : undefined;
    if (found !== undefined) S[key] = found;
  }
  if (S.x < 0) S.x = START.x;
  if (S.y < 0 || S.y === S.x) S.y = mapped.find(d => d !== S.x) ?? -1;
  if (S.panels === S.x || S.panels === S.y) S.panels = -1;
  if (S.over < 0 && T < 2) S.over = START.over;
  $("search").value = S.search;
};

/* What the report holds, as Python wrote it into D, and what is shown of it. A point is a number: the place along every
   axis, the last axis fastest. Values of an observable lie in order (point, time), those of seeds in (point, seed, time). */
const $ = id => document.getElementById(id);
const unpack = text => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const view = new DataView(bytes.buffer),
    out = new Float32Array(bytes.length / 4);
  for (let i = 0; i < out.length; i++) out[i] = view.getFloat32(4 * i, true);
  return out;
};
for (const o of D.observed)
  for (const part of ["middle", "low", "high", "seeds", "shares"]) if (o[part]) o[part] = unpack(o[part]);
const failed = unpack(D.failed);

const T = D.times.length,
  sizes = D.axes.map(a => a.values.length),
  total = sizes.reduce((a, b) => a * b, 1);
const strides = sizes.map((_, d) => sizes.slice(d + 1).reduce((a, b) => a * b, 1));
const places = point => sizes.map((size, d) => Math.floor(point / strides[d]) % size);
const number = at => at.reduce((sum, place, d) => sum + place * strides[d], 0);
const everyPoint = Array.from({ length: total }, (_, point) => point);
const placeOn = (point, d) => Math.floor(point / strides[d]) % sizes[d];

const power = v => {
  const [digits, exponent] = v.toExponential(2).split("e");
  return `${Number(digits)}e${Number(exponent)}`;
};
const show = v =>
  typeof v === "string"
    ? v
    : v === null || Number.isNaN(v)
      ? "–"
      : !Number.isFinite(v)
        ? v > 0
          ? "∞"
          : "−∞"
        : v === 0
          ? "0"
          : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3
            ? power(v)
            : String(+v.toPrecision(4));

/* ---- columns: everything that has one value at each point, for the table, the search and clouds of points */
const COLUMNS = [
  ...D.axes.flatMap((a, d) =>
    a.parts.map((part, k) => ({
      name: part.name,
      label: part.label,
      axis: d,
      part: k,
      log: part.log,
      shown: part.shown,
      texts: part.shown.some(v => typeof v === "string") ? [...new Set(part.shown)] : null,
      of: point => part.shown[placeOn(point, d)],
    })),
  ),
  ...D.observed.map((o, k) => ({
    name: o.name,
    label: o.name,
    observed: k,
    texts: null,
    of: point => value(k, point),
  })),
  { name: "failed", label: "failed seeds", texts: null, of: point => failed[point] },
];
const column = name => COLUMNS.find(c => c.name === name);

/* ---- what is shown */
const mapped = D.axes.map((_, d) => d).filter(d => sizes[d] > 1 && !D.axes[d].scattered); // axes that a map can have
const random = D.axes.findIndex(a => a.scattered);
const firstView = random >= 0 ? "parallel" : D.start.length > 1 ? "map" : "along";
const START = {
  view: firstView,
  observable: 0,
  time: T - 1,
  x: D.start.find(d => mapped.includes(d)) ?? mapped[0] ?? -1,
  y: -1,
  panels: -1,
  over: T > 1 || !mapped.length ? -1 : mapped[0],
  across: (COLUMNS.find(c => c.axis !== undefined && !c.texts && sizes[c.axis] > 1) ?? COLUMNS[0]).name,
  up: D.observed[0].name,
  shade: D.observed[Math.min(1, D.observed.length - 1)].name,
  scale: "free",
  values: "automatic",
  seeds: false,
  theme: "automatic",
  search: "",
  sort: "",
  down: false,
  at: sizes.map(size => Math.floor((size - 1) / 2)),
  pins: [],
};
START.y = D.start.filter(d => mapped.includes(d) && d !== START.x)[0] ?? mapped.find(d => d !== START.x) ?? -1;
const S = { ...START, at: [...START.at], pins: [] };

const value = (o, point, t = S.time) => D.observed[o].middle[point * T + t];
/* The median of a point most of whose seeds failed would mislead. */
const lost = (o, point) => failed[point] >= D.seeds / 2 || !Number.isFinite(value(o, point));
const here = () => number(S.at);
const spot = point =>
  D.axes
    .map((a, d) =>
      sizes[d] > 1 || total === 1
        ? a.parts.map(part => `${part.label} ${show(part.shown[placeOn(point, d)])}`).join(", ")
        : "",
    )
    .filter(Boolean)
    .join(", ") || "the point";
const when = () => (T > 1 ? ` at ${D.clock} ${show(D.times[S.time])}` : "");
const about = point => {
  const o = D.observed[S.observable],
    k = point * T + S.time;
  const spread =
    D.seeds > 1 && !Number.isNaN(o.middle[k]) ? ` (10 % to 90 % of ${D.seeds} seeds: ${show(o.low[k])} to ${show(o.high[k])})` : "";
  const count = failed[point] ? `${failed[point]} of ${D.seeds} seeds failed: ` : "";
  const why = D.reasons[point] ? `; ${count}${D.reasons[point]}` : "";
  return `${o.name} ${Number.isNaN(o.middle[k]) ? "has no value" : show(o.middle[k])}${spread}${why}`;
};

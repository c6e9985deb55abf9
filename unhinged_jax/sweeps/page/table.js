/* The table of points, and the same as a file. */
const ROWS = 300;
/* Points of the search in the order of the table. */
const sorted = () => {
  const { found } = search(),
    by = column(S.sort);
  if (!by) return found;
  const last = v => typeof v === "number" && Number.isNaN(v); // points without a value come last in either order
  return [...found].sort((p, q) => {
    const a = by.of(p),
      b = by.of(q);
    return last(a) || last(b) ? last(a) - last(b) : (a < b ? -1 : a > b ? 1 : 0) * (S.down ? -1 : 1);
  });
};
const drawTable = () => {
  const points = sorted(),
    chosen = here(),
    { said } = search(),
    head = $("table").tHead,
    body = $("table").tBodies[0];
  $("count").textContent =
    `${points.length.toLocaleString("en")} of ${total.toLocaleString("en")} points${points.length > ROWS ? `, the first ${ROWS} shown` : ""}; ` +
    `${D.seeds > 1 ? "medians over seeds" : "values"}${when()}`;
  if ($("said").textContent !== said) $("said").textContent = said;
  head.replaceChildren();
  body.replaceChildren();
  const top = head.insertRow(),
    corner = top.appendChild(document.createElement("th"));
  corner.scope = "col";
  corner.textContent = "point";
  for (const col of COLUMNS) {
    const cell = top.appendChild(document.createElement("th")),
      button = cell.appendChild(document.createElement("button"));
    cell.scope = "col";
    cell.setAttribute("aria-sort", S.sort === col.name ? (S.down ? "descending" : "ascending") : "none");
    Object.assign(button, {
      type: "button",
      id: `sort-${col.name}`,
      textContent: col.name + (S.sort === col.name ? (S.down ? " ▾" : " ▴") : ""),
    });
    button.onclick = () => {
      S.down = S.sort === col.name && !S.down;
      S.sort = col.name;
      draw();
    };
  }
  const shown = points.slice(0, ROWS),
    entry = shown.includes(chosen) ? chosen : shown[0];
  for (const point of shown) {
    const row = body.insertRow(),
      button = row.insertCell().appendChild(document.createElement("button")),
      pin = S.pins.indexOf(point);
    row.dataset.point = point;
    if (point === chosen) row.className = "here";
    Object.assign(button, {
      type: "button",
      id: `row-${point}`,
      tabIndex: point === entry ? 0 : -1,
      textContent: pin < 0 ? `${point + 1}` : `${point + 1} ●${pin + 1}`,
    });
    button.setAttribute("aria-label", `${button.textContent}: choose this point`);
    if (point === chosen) button.setAttribute("aria-current", "true");
    for (const col of COLUMNS) row.insertCell().textContent = show(col.of(point));
    if (D.reasons[point]) {
      row.lastChild.textContent += ` (${D.reasons[point]})`;
      row.lastChild.className = "bad";
    }
  }
};
/* Every point of the search with all digits, the quantiles of its seeds and its reason. */
const inFile = v => {
  if (typeof v !== "number") return /[",\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v;
  return Number.isNaN(v) ? "" : Number.isFinite(v) ? String(v) : v > 0 ? "inf" : "-inf";
};
const csvText = () => {
  const held = (name, values) => ({ name, of: p => Number(values[p * T + S.time].toPrecision(8)) }); // those of float32
  const columns = [
    ...COLUMNS.filter(c => c.axis !== undefined),
    ...(T > 1 ? [{ name: "time", of: () => D.times[S.time] }] : []),
    ...D.observed.map(o => held(o.name, o.middle)),
    ...(D.seeds > 1 ? D.observed.flatMap(o => [held(`${o.name}_q10`, o.low), held(`${o.name}_q90`, o.high)]) : []),
    column("failed"),
    { name: "reason", of: p => D.reasons[p] ?? "" },
  ];
  const rows = sorted().map(p => columns.map(c => inFile(c.of(p))));
  return [columns.map(c => inFile(c.name)), ...rows].map(row => `${row.join(",")}\n`).join("");
};

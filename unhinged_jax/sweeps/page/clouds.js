/* One mark for each point: any column against any other, and parallel coordinates. Points that the search leaves out are
   pale. */
const MOST_MARKS = 4000;
const drawnPoints = () => {
  const by = Math.ceil(total / MOST_MARKS),
    all = Array.from({ length: Math.ceil(total / by) }, (_, k) => k * by);
  for (const point of [here(), ...S.pins]) if (point % by) all.push(point);
  return all;
};
const columnAxis = (col, points, room) => {
  let [low, high] =
    col.observed !== undefined && S.scale === "fixed"
      ? wholeRange(col.observed)
      : range(
          points.map(p => (col.observed !== undefined && lost(col.observed, p) ? NaN : col.texts ? NaN : col.of(p))),
        );
  const log =
    low > 0 &&
    (col.observed === undefined
      ? !!col.log
      : S.values === "logarithmic" || (S.values === "automatic" && wide(low, high)));
  if (low === high) [low, high] = [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
  const spare = room * (log ? Math.log(high / low) : high - low);
  return axisOf(
    col.label + (log && col.observed !== undefined ? ", logarithmic" : ""),
    log ? low / Math.exp(spare) : low - spare,
    log ? high * Math.exp(spare) : high + spare,
    log,
    col.texts,
  );
};
const placeOf = (col, p) =>
  col.texts ? col.texts.indexOf(col.of(p)) : col.observed !== undefined && lost(col.observed, p) ? NaN : col.of(p);

const drawScatter = svg => {
  const [across, up, by] = [S.across, S.up, S.shade].map(column),
    points = drawnPoints(),
    height = 480,
    width = canvas(svg, height);
  const xaxis = columnAxis(across, points, 0.03),
    yaxis = columnAxis(up, points, 0.03),
    shade = shadeOf(by, points);
  const room = around(xaxis, yaxis, width, height - 56),
    box = { left: room.left, right: width - 16, top: 14, bottom: height - room.bottom - 56 };
  const [X, Y] = frame(svg, box, xaxis, yaxis, room.turned);
  const group = focusable(svg, "listbox", `${up.label} against ${across.label}; choose a point with the arrow keys`),
    spots = [];
  for (const p of points) {
    const x = X(placeOf(across, p)),
      y = Y(placeOf(up, p));
    if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
    const colour = by.observed !== undefined && lost(by.observed, p) ? "var(--missing)" : shade.of(p);
    spots.push({ point: p, x, y });
    option(group, "circle", p, {
      cx: x.toFixed(2),
      cy: y.toFixed(2),
      r: 4,
      style: `fill: ${colour}`,
      opacity: matches(p) ? 0.95 : 0.12,
    });
  }
  colourBar(svg, shade, by.label, box.left, Math.min(box.right, box.left + 460), height - 50);
  finishCloud(
    svg,
    group,
    spots.sort((a, b) => a.x - b.x || a.y - b.y),
    points.length,
  );
};

/* ---- parallel coordinates: a line for each point, through its value on every axis */
const parallelColumns = () => [
  ...COLUMNS.filter(c => c.axis !== undefined && sizes[c.axis] > 1),
  COLUMNS.find(c => c.observed === S.observable),
];
const drawParallel = svg => {
  const cols = parallelColumns(),
    last = cols[cols.length - 1],
    points = drawnPoints(),
    height = 470,
    width = canvas(svg, height);
  const axes = cols.map(col => columnAxis(col, points, 0)),
    shade = shadeOf(last, points);
  // Names of neighbours stand on different lines where they would meet.
  const names = widest(axes.map(axis => [0, axis.label])) + 10;
  const rows = Math.min(4, Math.max(1, Math.ceil((names * cols.length) / (width - 60))));
  const top = 12 + 16 * rows,
    bottom = height - 76,
    marks = axes.map(axis => axis.marks ?? marksOf(axis, bottom - top, 50));
  const left = 12 + widest(marks[0]),
    right = width - 24,
    gap = (right - left) / Math.max(1, cols.length - 1);
  const X = cols.map((_, k) => left + k * gap),
    Y = axes.map(axis => scale(axis.low, axis.high, bottom, top, axis.log));
  const group = focusable(
      svg,
      "listbox",
      `Parallel coordinates, coloured by ${last.label}; choose a point with the arrow keys`,
    ),
    spots = [];
  const order = points
    .filter(p => !lost(S.observable, p))
    .sort((a, b) => matches(a) - matches(b) || last.of(a) - last.of(b));
  for (const p of order) {
    const ys = cols.map((col, k) => Y[k](placeOf(col, p)));
    spots.push({ point: p, ys });
    option(group, "path", p, {
      d: ys.map((y, k) => (k ? "L" : "M") + X[k].toFixed(1) + "," + y.toFixed(1)).join(""),
      fill: "none",
      style: `stroke: ${shade.of(p)}`,
      "stroke-width": 1.3,
      opacity: matches(p) ? 0.75 : 0.06,
    });
  }
  const front = add(svg, "g", { "aria-hidden": "true" });
  axes.forEach((axis, k) => {
    add(front, "path", { class: "axis", d: `M${X[k]},${top}V${bottom}` });
    for (const [v, text] of marks[k]) {
      add(front, "path", { class: "axis", d: `M${X[k]},${Y[k](v)}h-5` });
      const label = add(
        front,
        "text",
        {
          x: X[k] - 8,
          y: Y[k](v) + 4,
          "text-anchor": "end",
          style: "paint-order: stroke; stroke: var(--back); stroke-width: 3px",
        },
        text,
      );
      label.style.pointerEvents = "none";
    }
    const half = widthOf(axis.label) / 2,
      x = Math.min(width - half - 2, Math.max(half + 2, X[k]));
    add(front, "text", { x, y: 14 + 16 * (k % rows), "text-anchor": "middle", class: "name" }, axis.label);
    add(front, "rect", {
      x: X[k] - 12,
      y: top - 6,
      width: 24,
      height: bottom - top + 12,
      fill: "transparent",
      "data-axis": k,
      style: "cursor: ns-resize; touch-action: none",
    });
  });
  colourBar(svg, shade, last.label, left, Math.min(right, left + 460), height - 50);
  S.pins.forEach((point, pin) => {
    const spot = spots.find(s => s.point === point);
    if (spot)
      add(front, "path", {
        d: spot.ys.map((y, k) => (k ? "L" : "M") + X[k] + "," + y).join(""),
        fill: "none",
        style: `stroke: var(--c${pin + 1})`,
        "stroke-width": 3,
        "pointer-events": "none",
      });
  });
  svg.axes = cols.map((col, k) => ({ col, x: X[k], Y: Y[k], axis: axes[k], top, bottom }));
  finishCloud(
    svg,
    group,
    spots.reverse().map(spot => ({ ...spot, x: X, y: null })),
    points.length,
  );
  S.pins.forEach((point, pin) => {
    const spot = spots.find(s => s.point === point);
    if (spot) badge(svg, X[X.length - 1], spot.ys[spot.ys.length - 1], pin);
  });
};
/* What both clouds share: the mark of the chosen point, the order of the arrow keys, and which point is near a pointer. */
const finishCloud = (svg, group, spots, count) => {
  const chosen = here(),
    mark = group.querySelector(`[data-point="${chosen}"]`),
    spot = spots.find(s => s.point === chosen);
  if (mark) active(group, mark, chosen);
  else if (group.lastChild) active(group, group.lastChild, Number(group.lastChild.dataset.point));
  if (spot)
    ring(svg, spot.ys ? "path" : "circle", spot.ys ? { d: mark.getAttribute("d") } : { cx: spot.x, cy: spot.y, r: 7 });
  if (spot && !spot.ys)
    S.pins.forEach((point, pin) => {
      const its = spots.find(s => s.point === point);
      if (its) badge(svg, its.x, its.y, pin);
    });
  svg.order = spots.filter(s => matches(s.point)).map(s => s.point);
  svg.nearest = (x, y) => {
    const far = s => {
      if (!s.ys) return Math.hypot(s.x - x, s.y - y);
      const k = Math.min(s.x.length - 2, Math.max(0, s.x.findIndex(at => at > x) - 1)),
        share = (x - s.x[k]) / (s.x[k + 1] - s.x[k]);
      return s.ys.length < 2 ? Math.abs(s.ys[0] - y) : Math.abs(s.ys[k] + share * (s.ys[k + 1] - s.ys[k]) - y);
    };
    let best = null,
      least = 14;
    for (const s of spots) {
      const d = matches(s.point) ? far(s) : Infinity;
      if (d < least) [best, least] = [s.point, d];
    }
    return best;
  };
  svg.left_out = total - count;
};
const cloudKey = (svg, key) => {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity }[key],
    order = svg.order ?? [];
  if (by === undefined || !order.length) return false;
  const place = order.indexOf(here());
  S.at = places(order[place < 0 ? 0 : Math.min(order.length - 1, Math.max(0, place + by))]);
  return true;
};
/* Dragging along an axis of the parallel coordinates writes the condition into the search. */
const brushed = (part, from, to) => {
  const clamp = y => Math.min(part.bottom, Math.max(part.top, y)),
    [a, b] = [clamp(from), clamp(to)].sort((p, q) => q - p);
  const share = y => (part.bottom - y) / (part.bottom - part.top),
    name = quoted(part.col.name);
  const rest = terms(S.search)
    .filter(term => term.name !== part.col.name)
    .map(term => term.text);
  if (a - b < 4) return rest.join(" ");
  if (part.col.texts) {
    const inside = part.col.texts.filter((_, i) => part.Y(i) <= a && part.Y(i) >= b);
    return [...rest, ...(inside.length === 1 ? [`${name}=${quoted(inside[0])}`] : [])].join(" ");
  }
  const back = y =>
    part.axis.log
      ? part.axis.low * (part.axis.high / part.axis.low) ** share(y)
      : part.axis.low + share(y) * (part.axis.high - part.axis.low);
  return [...rest, `${name}>=${Number(back(a).toPrecision(4))}`, `${name}<=${Number(back(b).toPrecision(4))}`].join(
    " ",
  );
};

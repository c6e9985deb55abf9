/* Maps: cells over two axes, one panel for each value of a third, with the boundaries that theory predicts. */
const MOST_PANELS = 12;
/* Places along the third axis that have a panel: all, or some from the first to the last, the chosen one among them. */
const panelPlaces = () => {
  if (S.panels < 0) return [null];
  const n = sizes[S.panels],
    all = [...Array(n).keys()];
  if (n <= MOST_PANELS) return all;
  const some = Array.from({ length: MOST_PANELS }, (_, k) => Math.round((k * (n - 1)) / (MOST_PANELS - 1)));
  return [
    ...new Set([...some.filter(k => Math.abs(k - S.at[S.panels]) >= (n - 1) / (MOST_PANELS - 1) / 2), S.at[S.panels]]),
  ].sort((a, b) => a - b);
};
const atPanel = place => {
  const at = [...S.at];
  if (place !== null) at[S.panels] = place;
  return at;
};
const pointAt = (at, i, j) => number(at.map((place, d) => (d === S.x ? i : d === S.y ? j : place)));

/* Boundaries that belong to a panel, in its directions. */
const linesOf = at =>
  D.boundaries.flatMap(line => {
    const turned = line.x === S.y && line.y === S.x;
    if (
      (!turned && (line.x !== S.x || line.y !== S.y)) ||
      Object.entries(line.at).some(([d, place]) => at[d] !== place)
    )
      return [];
    return [{ ...line, points: turned ? line.points.map(p => p && [p[1], p[0]]) : line.points }];
  });
/* A boundary as a path, "" if it does not meet the map; straight lines extend to the border of the cells. */
const pathOf = (points, sides) => {
  const usable = p => p && sides.every(([axis], k) => !axis.log || p[k] > 0);
  const known = points.filter(usable),
    spans = sides.map((_, k) => range(known.map(p => p[k])));
  if (!known.length || sides.some(([, e], k) => spans[k][1] < e[0] || spans[k][0] > e[e.length - 1])) return "";
  const flat = spans.findIndex(([low, high]) => low === high),
    [, e] = sides[1 - flat] || [];
  if (flat >= 0) points = [e[0], e[e.length - 1]].map(v => (flat ? [v, known[0][1]] : [known[0][0], v]));
  const step = p => sides[0][2](p[0]) + "," + sides[1][2](p[1]);
  return points.map((p, i) => (usable(p) ? (usable(points[i - 1]) ? "L" : "M") + step(p) : "")).join("");
};

const cellsOf = (group, at, ax, ay, ex, ey, X, Y, shade) => {
  for (let j = sizes[S.y] - 1; j >= 0; j--) {
    // rows from the top, as they are read out
    const row = add(group, "g", { role: "row" }),
      y0 = Math.min(Y(ey[j]), Y(ey[j + 1])),
      height = Math.abs(Y(ey[j + 1]) - Y(ey[j]));
    for (let i = 0; i < sizes[S.x]; i++) {
      const point = pointAt(at, i, j),
        x0 = Math.min(X(ex[i]), X(ex[i + 1])),
        pale = !matches(point),
        over = pale ? 0 : 0.4, // no gaps between cells
        shown = value(S.observable, point),
        fill = lost(S.observable, point) ? "var(--missing)" : mixed(shade.stops, shade.share(shown));
      add(row, "rect", {
        role: "gridcell",
        x: x0,
        y: y0,
        width: Math.abs(X(ex[i + 1]) - X(ex[i])) + over,
        height: height + over,
        "shape-rendering": "crispEdges",
        style: `fill: ${fill}`,
        opacity: pale ? 0.25 : undefined,
        "data-point": point,
      });
    }
  }
};
const drawPanel = (svg, group, place, box, axes, shade, turned) => {
  const [ax, ay, ex, ey, xaxis, yaxis] = axes,
    at = atPanel(place);
  const X = scale(xaxis.low, xaxis.high, box.left, box.right, xaxis.log),
    Y = scale(yaxis.low, yaxis.high, box.bottom, box.top, yaxis.log);
  cellsOf(group, at, ax, ay, ex, ey, X, Y, shade);
  const clip = `inside-${place ?? 0}`,
    seen = [];
  add(add(svg, "clipPath", { id: clip }), "rect", {
    x: box.left,
    y: box.top,
    width: box.right - box.left,
    height: box.bottom - box.top,
  });
  for (const line of linesOf(at)) {
    const d = pathOf(line.points, [
      [ax, ex, X],
      [ay, ey, Y],
    ]);
    if (!d) continue;
    const look = { d, fill: "none", "pointer-events": "none", "clip-path": `url(#${clip})` };
    add(svg, "path", { ...look, stroke: "#fff", "stroke-width": 4.5 });
    add(svg, "path", {
      ...look,
      stroke: line.colour,
      "stroke-width": 2.2,
      "stroke-dasharray": line.dashes || "none",
      class: "boundary",
    });
    seen.push(line);
  }
  frame(svg, box, xaxis, yaxis, turned);
  if (place !== null)
    add(
      svg,
      "text",
      { x: (box.left + box.right) / 2, y: box.top - 6, "text-anchor": "middle", class: "title" },
      `${D.axes[S.panels].label} ${show(D.axes[S.panels].values[place])}`,
    );
  S.pins.forEach((point, pin) => {
    const its = places(point),
      inside = its.every((p, d) => d === S.x || d === S.y || p === at[d]);
    if (inside)
      badge(svg, (X(ex[its[S.x]]) + X(ex[its[S.x] + 1])) / 2, (Y(ey[its[S.y]]) + Y(ey[its[S.y] + 1])) / 2, pin);
  });
  return seen;
};
/* What grey and the lines mean, each name whole, below the map. Returns the height that it takes. */
const legend = (svg, lines, grey, left, width, top) => {
  const named = [...new Map(lines.map(line => [line.meaning, line])).values()];
  let y = top;
  const row = (name, kind) => {
    const parts = wrapped(name, width - left - 60),
      text = add(svg, "text", { x: left + 50, y: y + 12, class: kind });
    parts.forEach((part, k) =>
      add(text, "tspan", { x: left + 50, dy: k ? 15 : 0 }, part + (k < parts.length - 1 ? " " : "")),
    );
    y += 5 + 15 * parts.length;
  };
  if (grey) {
    add(svg, "rect", { x: left, y: y + 2, width: 40, height: 12, style: "fill: var(--missing)" });
    row("no value: at least half of the seeds failed or are missing", "missing");
  }
  for (const line of named) {
    const look = { d: `M${left},${y + 8}h40`, fill: "none" };
    add(svg, "path", { ...look, stroke: "#fff", "stroke-width": 5 });
    add(svg, "path", {
      ...look,
      stroke: line.colour,
      "stroke-width": 2.2,
      "stroke-dasharray": line.dashes || "none",
      class: "sample",
    });
    row(line.meaning, "meaning");
  }
  return y - top;
};
const drawMap = svg => {
  const shown = panelPlaces(),
    width = Math.max(280, svg.clientWidth),
    columns = Math.max(1, Math.min(shown.length, Math.floor(width / 230)));
  const each = width / columns,
    rows = Math.ceil(shown.length / columns),
    title = shown[0] === null ? 0 : 20;
  const [ax, ay] = [D.axes[S.x], D.axes[S.y]],
    [ex, ey] = [edges(ax), edges(ay)];
  const axis = (a, e) => axisOf(a.label, e[0], e[e.length - 1], a.log, a.text ? a.values : null),
    xaxis = axis(ax, ex),
    yaxis = axis(ay, ey);
  const tall = Math.min(420, 0.82 * each + 40) + title,
    room = around(xaxis, yaxis, each, tall - title + 2);
  const every = shown.flatMap(place => {
    const at = atPanel(place);
    return Array.from({ length: sizes[S.x] * sizes[S.y] }, (_, k) =>
      pointAt(at, k % sizes[S.x], Math.floor(k / sizes[S.x])),
    );
  });
  const shade = shading(
    S.observable,
    every.map(point => (lost(S.observable, point) ? NaN : value(S.observable, point))),
  );
  canvas(svg, 10);
  const group = focusable(svg, "grid", `Map of ${D.observed[S.observable].name}; choose a cell with the arrow keys`),
    lines = [];
  shown.forEach((place, k) => {
    const left = (k % columns) * each,
      top = Math.floor(k / columns) * tall;
    lines.push(
      ...drawPanel(
        svg,
        group,
        place,
        { left: left + room.left, right: left + each - 14, top: top + 12 + title, bottom: top + tall - room.bottom },
        [ax, ay, ex, ey, xaxis, yaxis],
        shade,
        room.turned,
      ),
    );
  });
  const bottom = rows * tall + 12;
  colourBar(svg, shade, D.observed[S.observable].name, room.left, Math.min(width - 14, room.left + 460), bottom);
  const height =
    bottom +
    54 +
    legend(
      svg,
      lines,
      every.some(point => lost(S.observable, point)),
      room.left,
      width,
      bottom + 50,
    );
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const mark = group.querySelector(`[data-point="${here()}"]`);
  if (!mark) return;
  active(group, mark, here());
  ring(svg, "rect", Object.fromEntries(["x", "y", "width", "height"].map(key => [key, mark.getAttribute(key)])));
};
/* Keys of a map: arrows move the chosen cell, Page Up and Page Down change the panel. */
const mapKey = key => {
  const step = (d, by) => {
    if (d >= 0) S.at[d] = Math.min(sizes[d] - 1, Math.max(0, S.at[d] + by));
  };
  const moves = {
    ArrowLeft: [S.x, -1],
    ArrowRight: [S.x, 1],
    ArrowDown: [S.y, -1],
    ArrowUp: [S.y, 1],
    Home: [S.x, -Infinity],
    End: [S.x, Infinity],
    PageUp: [S.panels, -1],
    PageDown: [S.panels, 1],
  };
  if (!moves[key]) return false;
  step(...moves[key]);
  return true;
};

/* Curves over time or along an axis, of the chosen point and of those that are pinned: the median, and the band or the
   single lines of the seeds. */
const curveAxis = over => {
  if (over < 0) {
    const positive = D.times.filter(t => t > 0),
      log = positive.length > 2 && wide(positive[0], positive[positive.length - 1]);
    const label = log && D.times[0] <= 0 ? `${D.clock} (0 is not on this axis)` : D.clock;
    return { label, values: D.times, log, text: false };
  }
  const a = D.axes[over];
  return { label: a.label, values: a.values, log: a.log, text: a.text };
};
/* The points of a curve: {x, place, k} with k the index into an observable's values. */
const stepsOf = (point, over, axis) =>
  axis.values
    .map((v, place) => {
      const p = over < 0 ? point : point + (place - placeOn(point, over)) * strides[over];
      return { x: axis.text ? place : v, place, point: p, k: over < 0 ? p * T + place : p * T + S.time };
    })
    .filter(
      step =>
        (!axis.log || step.x > 0) &&
        Number.isFinite(D.observed[S.observable].middle[step.k]) &&
        (over < 0 || failed[step.point] < D.seeds / 2),
    );
const seedsAt = (o, step, over, seed) => o.seeds[(step.point * D.seeds + seed) * T + (over < 0 ? step.place : S.time)];

/* Every value that a curve draws at steps: those of the seeds, or the ends of their band. */
const heightsAt = function* (steps, over) {
  const o = D.observed[S.observable];
  for (const step of steps) {
    yield o.middle[step.k];
    if (S.seeds && o.seeds) for (let s = 0; s < D.seeds; s++) yield seedsAt(o, step, over, s);
    else yield* [o.low[step.k], o.high[step.k]];
  }
};
/* Every point at every time, as steps over time; those that are on the axis, if it is that of times. */
const everyStep = function* (over) {
  const log = over < 0 && curveAxis(over).log;
  for (const point of everyPoint)
    if (failed[point] < D.seeds / 2)
      for (let t = 0; t < T; t++) if (!log || D.times[t] > 0) yield { point, place: t, k: point * T + t };
};
/* The range of values to draw, and whether by their logarithm. */
const heights = (steps, over) => {
  let [low, high] = range(S.scale === "fixed" ? heightsAt(everyStep(over), -1) : heightsAt(steps, over));
  const log = low > 0 && (S.values === "logarithmic" || (S.values === "automatic" && wide(low, high)));
  const about = v => 0.5 * (Math.abs(v) || 1);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - about(low), high + about(high)];
  const spare = log ? (high / low) ** 0.03 : 0.03 * (high - low); // so that no mark is cut at the border
  return log ? { low: low / spare, high: high * spare, log } : { low: low - spare, high: high + spare, log };
};
const pathThrough = (steps, X, Y, of) => {
  const there = step => step && Number.isFinite(of(step));
  const at = step => `${X(step.x).toFixed(2)},${Y(of(step)).toFixed(2)}`;
  return steps.map((step, k) => (there(step) ? (there(steps[k - 1]) ? "L" : "M") + at(step) : "")).join("");
};
/* One point's curve: the seeds or their band, and the median. Texts have no order, so their values are not joined. */
const drawCurve = (svg, { steps, colour }, over, joined, X, Y) => {
  const o = D.observed[S.observable],
    silent = { "pointer-events": "none" };
  const [low, high] = [step => o.low[step.k], step => o.high[step.k]];
  const stroke = (d, width, look) =>
    add(svg, "path", { d, fill: "none", style: `stroke: ${colour}`, "stroke-width": width, ...silent, ...look });
  if (S.seeds && o.seeds)
    for (let s = 0; s < D.seeds; s++) {
      const of = step => seedsAt(o, step, over, s);
      if (joined) stroke(pathThrough(steps, X, Y, of), 0.9, { opacity: 0.6, class: "seed" });
      else
        for (const step of steps) stroke(`M${X(step.x) - 9},${Y(of(step))}h18`, 0.9, { opacity: 0.6, class: "seed" });
    }
  else if (!joined)
    for (const step of steps)
      stroke(`M${X(step.x)},${Y(low(step))}V${Y(high(step))}`, 6, { opacity: 0.3, class: "band" });
  else {
    const back = pathThrough([...steps].reverse(), X, Y, low).replace("M", "L");
    add(svg, "path", {
      d: `${pathThrough(steps, X, Y, high)}${back}Z`,
      style: `fill: ${colour}`,
      opacity: 0.2,
      class: "band",
      ...silent,
    });
  }
  if (joined)
    stroke(
      pathThrough(steps, X, Y, step => o.middle[step.k]),
      2,
      { class: "middle" },
    );
};
/* `role` is given if its points can be chosen with the keyboard. */
const drawCurves = (svg, over, role) => {
  const o = D.observed[S.observable],
    axis = curveAxis(over),
    chosen = here(),
    joined = !axis.text;
  const others = S.pins.filter(p => p !== chosen).map(p => ({ point: p, colour: `var(--c${S.pins.indexOf(p) + 1})` }));
  const lines = [...others, { point: chosen, colour: "var(--c0)" }].map(line => ({
    ...line,
    steps: stepsOf(line.point, over, axis),
  }));
  const height = 400,
    width = canvas(svg, height),
    all = lines.flatMap(line => line.steps),
    mine = lines[lines.length - 1].steps;
  const group = role
    ? focusable(svg, role, `${o.name} along ${axis.label}; choose a point with the arrow keys`)
    : add(svg, "g", {});
  svg.near = null;
  if (!all.length) {
    const why = D.reasons[chosen] ? `no value here: ${D.reasons[chosen]}` : "no finite value here";
    return add(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, why);
  }
  const { low, high, log } = heights(all, over);
  const xaxis = axisOf(axis.label, ...range(all.map(step => step.x)), axis.log, axis.text ? axis.values : null);
  const yaxis = axisOf(`${o.name}${log ? ", logarithmic" : ""}`, low, high, log, null);
  const room = around(xaxis, yaxis, width, height),
    box = { left: room.left, right: width - 16, top: 14, bottom: height - room.bottom };
  const [X, up] = frame(svg, box, xaxis, yaxis, room.turned),
    Y = v => up(Math.min(high, Math.max(low, v)));
  const centre = step => ({ cx: X(step.x), cy: Y(o.middle[step.k]) });
  if (low < 0 && high > 0)
    add(svg, "path", { class: "axis", d: `M${box.left},${Y(0)}H${box.right}`, "stroke-dasharray": "1 4" });
  for (const line of lines) {
    drawCurve(svg, line, over, joined, X, Y);
    const listed = role && line.steps === mine,
      look = { r: 3.5, style: `fill: ${line.colour}` };
    if (listed) for (const step of mine) option(group, "circle", step.point, { ...centre(step), ...look });
    else if (!joined || line.steps.length < 15)
      for (const step of line.steps) add(svg, "circle", { ...centre(step), ...look, "pointer-events": "none" });
  }
  const now = mine.find(step => step.place === (over < 0 ? S.time : S.at[over]));
  if (now) ring(svg, "circle", { ...centre(now), r: 6 });
  const mark = group.querySelector(`[data-point="${chosen}"]`) ?? group.firstChild;
  if (role && mark) active(group, mark, Number(mark.dataset.point));
  for (const { point, steps } of lines) {
    const pin = S.pins.indexOf(point),
      last = steps[steps.length - 1];
    if (pin >= 0 && last) badge(svg, X(last.x) - 4, Y(o.middle[last.k]), pin);
  }
  /* Where the pointer is: the step that is nearest in x. */
  svg.near = x =>
    mine.reduce((best, step) => (Math.abs(X(step.x) - x) < Math.abs(X(best.x) - x) ? step : best), mine[0]);
};
const along = (d, key) => {
  const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity }[key];
  if (by === undefined || d < 0) return false;
  S.at[d] = Math.min(sizes[d] - 1, Math.max(0, S.at[d] + by));
  return true;
};

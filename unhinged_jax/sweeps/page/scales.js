/* From numbers to places and colours. */
const range = values => {
  let low = Infinity,
    high = -Infinity;
  for (const v of values)
    if (Number.isFinite(v)) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
  return low > high ? [0, 1] : [low, high];
};
const wide = (low, high) => low > 0 && high > 100 * low; // a logarithmic scale shows more
const scale = (low, high, from, to, log) => {
  const f = log ? Math.log : x => x,
    a = f(low),
    b = f(high);
  return x => from + (to - from) * (b === a ? 0.5 : (f(x) - a) / (b - a));
};
const ticks = (low, high, log, most = 6) => {
  if (log && low > 0) {
    const found = [],
      from = Math.ceil(Math.log10(low) - 1e-9),
      to = Math.floor(Math.log10(high) + 1e-9);
    const by = Math.max(1, Math.ceil((to - from + 1) / most));
    for (let e = from; e <= to; e += by) found.push(10 ** e);
    if (found.length > 2) return found;
    // Few powers of ten: 1, 2 and 5 times a power, if they fit.
    const fine = [];
    for (let e = from - 1; e <= to + 1; e++)
      for (const m of [1, 2, 5])
        if (m * 10 ** e >= low * (1 - 1e-9) && m * 10 ** e <= high * (1 + 1e-9)) fine.push(m * 10 ** e);
    if (fine.length > 1 && fine.length <= most + 1) return fine;
    if (found.length > 1) return found;
  }
  if (high === low) return [low];
  const raw = (high - low) / most,
    size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * size).find(m => m >= raw * (1 - 1e-9)),
    found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
    found.push(k === 0 ? 0 : +(k * step).toPrecision(12));
  return found;
};

/* An axis to draw: `texts` stand at 0, 1, ...; else numbers from low to high. */
const axisOf = (label, low, high, log, texts) =>
  texts
    ? { label, low: -0.5, high: texts.length - 0.5, log: false, marks: texts.map((text, i) => [i, text]), texts }
    : { label, low, high, log, marks: null };
const marksOf = (axis, room, each = 60) =>
  axis.marks ?? ticks(axis.low, axis.high, axis.log, Math.max(2, Math.floor(room / each))).map(v => [v, show(v)]);

/* Borders of the cells around the values of an axis: half way to the neighbours, by powers if the axis is logarithmic. */
const edges = axis => {
  const v = axis.text ? axis.values.map((_, i) => i) : axis.log ? axis.values.map(Math.log) : axis.values;
  if (v.length === 1) return [v[0] - 0.5, v[0] + 0.5];
  const middle = v.slice(1).map((b, i) => (v[i] + b) / 2);
  const all = [2 * v[0] - middle[0], ...middle, 2 * v[v.length - 1] - middle[middle.length - 1]];
  return axis.log ? all.map(Math.exp) : all;
};

/* ---- colours: cividis, legible with any colour vision; purple to orange around a centre */
const CIVIDIS = [
  [0, 32, 77],
  [0, 52, 110],
  [57, 73, 107],
  [87, 93, 109],
  [112, 113, 115],
  [138, 134, 121],
  [165, 156, 116],
  [195, 180, 105],
  [225, 204, 85],
  [255, 234, 70],
];
const DIVERGING = [
  [45, 0, 75],
  [84, 39, 136],
  [128, 115, 172],
  [178, 171, 210],
  [216, 218, 235],
  [247, 247, 247],
  [254, 224, 182],
  [253, 184, 99],
  [224, 130, 20],
  [179, 88, 6],
  [127, 59, 8],
];
const mixed = (stops, share) => {
  const s = Math.min(1, Math.max(0, share)) * (stops.length - 1),
    i = Math.min(stops.length - 2, Math.floor(s));
  return "rgb(" + stops[i].map((c, k) => Math.round(c + (s - i) * (stops[i + 1][k] - c))).join(",") + ")";
};
/* The range of an observable over everything, for fixed scales. */
const whole = {};
const wholeRange = o =>
  (whole[o] ??= range(
    (function* () {
      for (let p = 0; p < total; p++) if (failed[p] < D.seeds / 2) for (let t = 0; t < T; t++) yield value(o, p, t);
    })(),
  ));
/* How values of an observable are coloured: {stops, share (0 to 1 along them), low, high, log, centre}. */
const shading = (o, values) => {
  let [low, high] = S.scale === "fixed" ? wholeRange(o) : range(values);
  const middle = D.observed[o].centre ?? 0;
  const within = low < middle && middle < high;
  // Up to rounding there is one value: one colour, unlike the grey of failures, and words in place of a bar.
  if (high - low <= 1e-6 * Math.max(Math.abs(low), Math.abs(high)))
    return { low, high, log: false, centre: null, share: () => 0.25, stops: CIVIDIS, alike: show((low + high) / 2) };
  const centred = S.values === "centred" ? within : S.values === "automatic" && D.observed[o].centre !== null && within;
  const log = !centred && low > 0 && (S.values === "logarithmic" || (S.values === "automatic" && wide(low, high)));
  if (centred) {
    if (middle === 0) [low, high] = [-Math.max(-low, high), Math.max(-low, high)];
    const [down, up] = [scale(low, middle, 0, 0.5), scale(middle, high, 0.5, 1)],
      share = v => (v < middle ? down(v) : up(v));
    return { low, high, log, centre: middle, share, stops: DIVERGING };
  }
  const share = scale(low, high, 0, 1, log);
  return { low, high, log, centre: null, share, stops: CIVIDIS };
};
const PINS = 6;
/* Colours of marks that stand on the page itself: without those that its background would swallow. */
const forMarks = stops =>
  stops === DIVERGING
    ? stops.map((c, i) => (Math.abs(i - 5) < 2 ? [140, 140, 140] : c))
    : document.documentElement.classList.contains("dark")
      ? stops.slice(3)
      : stops.slice(0, 8);
/* The colour of a mark by a column: texts evenly along the colours. */
const shadeOf = (col, points) => {
  const made = () => {
    if (col.observed !== undefined)
      return shading(
        col.observed,
        points.map(p => (lost(col.observed, p) ? NaN : col.of(p))),
      );
    if (col.texts)
      return {
        texts: col.texts,
        stops: CIVIDIS,
        share: t => (col.texts.length > 1 ? col.texts.indexOf(t) / (col.texts.length - 1) : 0.5),
      };
    const [low, high] = range(points.map(col.of)),
      log = col.log && low > 0;
    return { low, high, log, centre: null, share: scale(low, high, 0, 1, log), stops: CIVIDIS };
  };
  const shade = made(),
    stops = forMarks(shade.stops);
  return { ...shade, stops, of: p => mixed(stops, shade.share(col.of(p))) };
};

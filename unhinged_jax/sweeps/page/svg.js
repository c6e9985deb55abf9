/* Drawing: elements, axes, colour bars, and a picture as a file. */
const add = (parent, kind, attributes, text) => {
  const node = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", kind));
  for (const [key, v] of Object.entries(attributes)) if (v !== undefined) node.setAttribute(key, v);
  if (text !== undefined) node.textContent = text;
  return node;
};
const pen = document.createElement("canvas").getContext("2d");
pen.font = '12px "DejaVu Sans", system-ui, sans-serif';
const widthOf = text => pen.measureText(text).width;
const widest = marks => Math.max(0, ...marks.map(([, text]) => widthOf(text)));
/* Lines of a text that are no wider than `room`. */
const wrapped = (text, room) =>
  text.split(" ").reduce((lines, word) => {
    const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
    return lines.length && widthOf(longer) <= room ? [...lines.slice(0, -1), longer] : [...lines, word];
  }, []);

/* An empty picture of a height, as wide as the page gives it, so that its text has the size of the page's. The group
   that takes the keyboard's focus stays the same node, so drawing again does not lose the focus. */
const canvas = (svg, height) => {
  const width = Math.max(280, svg.clientWidth);
  const kept = svg.querySelector("[tabindex]");
  kept?.replaceChildren();
  for (const child of [...svg.children]) if (child !== kept) child.remove();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  return width;
};
const focusable = (svg, role, label) => {
  let group = svg.querySelector("[tabindex]");
  if (group?.getAttribute("role") !== role) {
    group?.remove();
    group = add(svg, "g", { tabindex: 0, role });
  }
  group.setAttribute("aria-label", label);
  group.removeAttribute("aria-activedescendant");
  return group;
};
/* A mark of a point that can be chosen in a list of marks. */
const option = (group, kind, point, attributes) =>
  add(group, kind, {
    ...attributes,
    role: "option",
    "aria-selected": "false",
    "aria-label": `${spot(point)}: ${about(point)}`,
    "data-point": point,
  });
/* Tell assistive technology which mark the focus of a picture is on. */
const active = (group, mark, point) => {
  mark.id = "active-mark";
  mark.setAttribute("aria-label", `${spot(point)}: ${about(point)}`);
  mark.setAttribute("aria-selected", "true");
  group.setAttribute("aria-activedescendant", mark.id);
};

/* Room that axes take around a box: {left, bottom, turned}, in a picture whose box begins 14 below its upper side. Long
   texts are turned. */
const marksUp = (axis, height) => marksOf(axis, height, 40);
const around = (xaxis, yaxis, width, height) => {
  const wide = widest(xaxis.texts ? xaxis.marks : []),
    each = (width - 90) / Math.max(1, xaxis.texts?.length ?? 1),
    turned = wide > each - 6;
  const bottom = turned ? 34 + 0.6 * wide : 44;
  return { left: 30 + widest(marksUp(yaxis, height - bottom - 14)), bottom, turned };
};
/* Axes along the left and the lower side of a box. Labels of numbers that would touch the one before are left out. */
const frame = (svg, box, xaxis, yaxis, turned) => {
  const X = scale(xaxis.low, xaxis.high, box.left, box.right, xaxis.log),
    Y = scale(yaxis.low, yaxis.high, box.bottom, box.top, yaxis.log);
  const group = add(svg, "g", { "aria-hidden": "true", "pointer-events": "none" });
  add(group, "path", { class: "axis", d: `M${box.left},${box.top}V${box.bottom}H${box.right}` });
  let last = -Infinity;
  for (const [v, text] of marksOf(xaxis, box.right - box.left)) {
    add(group, "path", { class: "axis", d: `M${X(v)},${box.bottom}v5` });
    const half = widthOf(text) / 2;
    if (!turned && X(v) - half < last + 4) continue;
    last = X(v) + half;
    add(
      group,
      "text",
      turned
        ? { "text-anchor": "end", transform: `translate(${X(v) + 4} ${box.bottom + 15}) rotate(-35)` }
        : { x: X(v), y: box.bottom + 18, "text-anchor": "middle" },
      text,
    );
  }
  for (const [v, text] of marksUp(yaxis, box.bottom - box.top)) {
    add(group, "path", { class: "axis", d: `M${box.left},${Y(v)}h-5` });
    add(group, "text", { x: box.left - 8, y: Y(v) + 4, "text-anchor": "end" }, text);
  }
  const low = box.bottom + (turned ? 28 + 0.6 * widest(xaxis.marks) : 38),
    middle = (box.top + box.bottom) / 2,
    x = box.left - 16 - widest(marksUp(yaxis, box.bottom - box.top));
  add(group, "text", { x: (box.left + box.right) / 2, y: low, "text-anchor": "middle" }, xaxis.label);
  add(group, "text", { x, y: middle, "text-anchor": "middle", transform: `rotate(-90 ${x} ${middle})` }, yaxis.label);
  return [X, Y];
};
/* A horizontal bar of colours with its ticks and its name; 44 high. */
const colourBar = (svg, shade, label, left, right, top) => {
  if (shade.alike !== undefined) return add(svg, "text", { x: left, y: top + 12, class: "alike" }, `all ${shade.alike}`);
  const group = add(svg, "g", { class: "colour-bar", "aria-hidden": "true" }),
    n = 64,
    at = share => left + share * (right - left);
  for (let k = 0; k < n; k++)
    add(group, "rect", {
      x: at(k / n),
      y: top,
      width: (right - left) / n + 0.5,
      height: 11,
      fill: mixed(shade.stops, (k + 0.5) / n),
      "shape-rendering": "crispEdges",
    });
  const inner = shade.centre === null ? [] : [shade.centre];
  const marks = shade.texts
    ? shade.texts.map(text => [text, text])
    : [
        shade.low,
        ...inner,
        shade.high,
        ...ticks(shade.low, shade.high, shade.log, Math.floor((right - left) / 70)),
      ].map(v => [v, show(v)]);
  const taken = [];
  for (const [v, text] of marks) {
    // the ends and the centre come first, and no other label covers them
    const x = at(shade.share(v)),
      half = widthOf(text) / 2,
      middle = Math.min(right - half, Math.max(left + half, x));
    if (!Number.isFinite(x) || taken.some(([a, b]) => middle + half + 8 > a && middle - half - 8 < b)) continue;
    taken.push([middle - half, middle + half]);
    add(group, "path", { class: "axis", d: `M${x},${top + 11}v4` });
    add(group, "text", { x: middle, y: top + 27, "text-anchor": "middle", class: "tick" }, text);
  }
  add(
    group,
    "text",
    { x: (left + right) / 2, y: top + 42, "text-anchor": "middle" },
    label + (shade.log ? ", logarithmic" : ""),
  );
};
/* The point that is chosen, so that it is seen on any colour: white inside black. */
const ring = (svg, kind, attributes) => {
  add(svg, kind, { ...attributes, class: "chosen outer" });
  add(svg, kind, { ...attributes, class: "chosen" });
};
/* The number of a pinned point, white on its colour. */
const badge = (svg, x, y, pin) => {
  const group = add(svg, "g", { "pointer-events": "none", "aria-hidden": "true" });
  add(group, "circle", { cx: x, cy: y, r: 9, fill: `var(--c${pin + 1})`, stroke: "#fff", "stroke-width": 1.5 });
  add(group, "text", { x, y: y + 4, "text-anchor": "middle", style: "fill: var(--back)" }, pin + 1);
};

/* ---- files */
const save = (name, kind, text) => {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(new Blob([text], { type: kind })),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
const LOOK = [
  "fill",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "opacity",
  "font-family",
  "font-size",
  "font-weight",
];
/* A picture with its looks inside, so that it is the same elsewhere. */
const svgText = (svg, title) => {
  const copy = svg.cloneNode(true),
    from = [...svg.querySelectorAll("*")],
    to = [...copy.querySelectorAll("*")];
  from.forEach((node, i) => {
    const look = getComputedStyle(node);
    for (const key of LOOK) to[i].setAttribute(key, look.getPropertyValue(key));
    to[i].removeAttribute("class");
    to[i].removeAttribute("tabindex");
    to[i].removeAttribute("style");
  });
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const lines = wrapped(title, 0.85 * (width - 16)), above = 10 + 16 * lines.length; // bold letters are wider
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("viewBox", `0 ${-above} ${width} ${height + above}`);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height + above);
  for (const name of ["id", "role", "class", "aria-labelledby"]) copy.removeAttribute(name);
  const style = getComputedStyle(document.documentElement);
  const box = { x: 0, y: -above, width, height: height + above, fill: style.getPropertyValue("--back") };
  copy.prepend(add(copy, "rect", box));
  const look = { fill: style.getPropertyValue("--ink"), "font-size": 12, "font-weight": "bold", "font-family": '"DejaVu Sans", sans-serif' };
  lines.forEach((line, k) => add(copy, "text", { x: 8, y: 16 * (k + 1) - above, ...look }, line));
  return new XMLSerializer().serializeToString(copy);
};

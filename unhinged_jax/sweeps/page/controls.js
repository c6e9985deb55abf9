/* Controls above the pictures. Each is called as what it sets in S. They are made again only when others are needed, so a
   slider that is dragged stays. */
const VIEWS = [
  ["map", "map", () => mapped.length > 1],
  ["along", "along an axis", () => true],
  ["scatter", "one against another", () => total > 1],
  ["parallel", "parallel coordinates", () => COLUMNS.some(c => c.axis !== undefined && sizes[c.axis] > 1)],
];
const labelled = (id, text, node) => {
  const label = document.createElement("label");
  node.id = id;
  label.append(text, node);
  $("controls").append(label);
  return node;
};
const choice = (id, text, options, changed = v => (S[id] = v)) => {
  const node = labelled(id, text, document.createElement("select"));
  options.forEach(([v, name]) => node.add(new Option(name, v)));
  node.value = S[id];
  node.onchange = () => {
    changed(typeof S[id] === "number" ? Number(node.value) : node.value);
    draw();
  };
};
const slider = (id, text, size, read, write, describe) => {
  const node = labelled(id, text, document.createElement("input"));
  const out = node.parentNode.appendChild(document.createElement("output"));
  Object.assign(node, { type: "range", min: 0, max: size - 1, step: 1 });
  node.say = () => {
    node.value = read();
    out.textContent = describe(read());
    node.setAttribute("aria-valuetext", describe(read()));
  };
  node.say();
  node.oninput = () => {
    write(Number(node.value));
    draw();
  };
};
const tick = (id, text) => {
  const node = labelled(id, text, document.createElement("input"));
  node.onchange = () => {
    S[id] = node.checked;
    draw();
  };
  Object.assign(node, { type: "checkbox", checked: S[id] });
};

/* Axes of the picture itself, whose place the picture shows; the others have a slider. */
const axesDrawn = () => ({ map: [S.x, S.y], along: [S.x] })[S.view] ?? [];
const mapControls = axes => {
  // An axis that is chosen in two places is exchanged, so that a map has two.
  const taken = (one, other) => v => {
    if (v === S[other]) S[other] = S[one];
    if (v === S.panels) S.panels = -1;
    S[one] = v;
  };
  choice("x", "across", axes, taken("x", "y"));
  choice("y", "up", axes, taken("y", "x"));
  const others = axes.filter(([d]) => d !== S.x && d !== S.y);
  if (others.length) choice("panels", "a panel for each", [[-1, "nothing"], ...others]);
};
const scatterControls = () => {
  const columns = COLUMNS.filter(c => c.axis === undefined || sizes[c.axis] > 1).map(c => [c.name, c.label]);
  choice("across", "across", columns);
  choice("up", "up", columns);
  choice("shade", "colour", columns);
};

let made = "";
const drawControls = () => {
  const { at, pins, time, search, sort, down, ...decides } = S; // these move without other controls
  const wanted = JSON.stringify(decides);
  if (made === wanted) {
    for (const node of $("controls").querySelectorAll("input[type=range]")) node.say();
    return;
  }
  made = wanted;
  $("controls").replaceChildren();
  const axes = mapped.map(d => [d, D.axes[d].label]);
  choice("view", "picture", VIEWS.filter(([, , offered]) => offered()));
  choice("observable", "observable", D.observed.map((o, k) => [k, o.name]));
  if (S.view === "map") mapControls(axes);
  if (S.view === "along" && axes.length > 1) choice("x", "along", axes, v => ([S.x, S.y] = [v, v === S.y ? S.x : S.y]));
  if (S.view === "scatter") scatterControls();
  const over = [...(T > 1 ? [[-1, D.clock]] : []), ...axes];
  if (over.length > 1) choice("over", "curve over", over);
  choice("scale", "scale", [["free", "free: what is seen"], ["fixed", "fixed: the whole sweep"]]);
  const plain = ["automatic", "linear", "logarithmic"].map(kind => [kind, kind]);
  choice("values", "values", [...plain, ["centred", "around the centre"]]);
  if (D.observed[S.observable].seeds && D.seeds > 1) tick("seeds", "single seeds");
  if (T > 1) slider("time", D.clock, T, () => S.time, i => (S.time = i), i => show(D.times[i]));
  D.axes.forEach((a, d) => {
    if (sizes[d] < 2 || a.scattered || axesDrawn().includes(d)) return;
    slider(`axis-${a.name}`, a.label, sizes[d], () => S.at[d], i => (S.at[d] = i), i => show(a.values[i]));
  });
  choice("theme", "colours", [["automatic", "as the system"], ["light", "light"], ["dark", "dark"]]);
};

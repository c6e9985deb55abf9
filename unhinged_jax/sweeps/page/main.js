/* Drawing everything, and what pointer and keyboard do. */
const PICTURES = {
  map: drawMap,
  along: svg => drawCurves(svg, S.x, "listbox"),
  scatter: drawScatter,
  parallel: drawParallel,
};
const titles = () => {
  const o = D.observed[S.observable],
    middle = D.seeds > 1 ? `, median over ${D.seeds} seeds` : "";
  $("left-title").textContent = {
    map: `${o.name} over ${D.axes[S.x]?.label} and ${D.axes[S.y]?.label}`,
    along: `${o.name} along ${D.axes[S.x]?.label ?? D.clock}`,
    scatter: `${column(S.up).label} against ${column(S.across).label}`,
    parallel: `${o.name} over all axes`,
  }[S.view];
  const fewer = $("left").left_out
    ? `; ${(total - $("left").left_out).toLocaleString("en")} of ${total.toLocaleString("en")} points are drawn`
    : "";
  $("left-note").textContent =
    (S.view === "scatter" ? `Colour: ${column(S.shade).label}${middle}${when()}` : `${o.meaning}${middle}${when()}`) +
    (S.view === "scatter" || S.view === "parallel" ? fewer : "");
  $("right-title").textContent = `${o.name} over ${S.over < 0 ? D.clock : D.axes[S.over].label}`;
  const band =
    D.seeds < 2
      ? ""
      : S.seeds && o.seeds
        ? "; thick: the median, thin: the seeds"
        : `; the median of ${D.seeds} seeds, and their 10 % to 90 % quantiles`;
  const without = !o.seeds && D.seeds > 1 ? ". Single seeds are left out of this page, which would be too large" : "";
  $("right-note").textContent = spot(here()) + band + without;
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = () => {
  const focused = document.activeElement?.id;
  document.documentElement.classList.toggle("dark", S.theme === "dark" || (S.theme === "automatic" && dark.matches));
  document.documentElement.style.colorScheme = document.documentElement.classList.contains("dark") ? "dark" : "light";
  drawControls();
  PICTURES[S.view]($("left"));
  const twice = S.view === "along" && S.over === S.x; // the same picture would stand on both sides
  $("right").closest("section").hidden = twice;
  if (!twice) drawCurves($("right"), S.over, null);
  titles();
  drawPoint();
  drawShares();
  drawTable();
  // Controls, buttons and rows are made again; the one that had the focus keeps it.
  if (focused && document.activeElement?.id !== focused) $(focused)?.focus({ preventScroll: true });
  writeAddress();
};
const hide = () => ($("tip").style.display = "none");
const tip = (event, text) => {
  $("tip").textContent = text;
  Object.assign($("tip").style, { display: "block" });
  const { width, height } = $("tip").getBoundingClientRect();
  Object.assign($("tip").style, {
    left: `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`,
    top: `${event.clientY + 14 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 14}px`,
  });
};
const inside = (svg, event) => {
  const box = svg.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

/* ---- the left picture: which point a pointer is at */
const left = $("left");
const pointed = event => {
  const cell = event.target.closest("[data-point]");
  if (cell) return Number(cell.dataset.point);
  if (S.view === "along") {
    const step = left.near?.(inside(left, event)[0]);
    return step ? step.point : null;
  }
  return S.view === "map" ? null : (left.nearest?.(...inside(left, event)) ?? null);
};
let brush = null;
left.addEventListener("pointerdown", event => {
  const k = event.target.dataset?.axis;
  if (k === undefined || S.view !== "parallel") return;
  brush = { part: left.axes[k], from: inside(left, event)[1] };
  left.setPointerCapture(event.pointerId);
  event.preventDefault();
});
left.addEventListener("pointerup", event => {
  if (!brush) return;
  S.search = brushed(brush.part, brush.from, inside(left, event)[1]);
  $("search").value = S.search;
  brush = null;
  draw();
});
left.addEventListener("pointermove", event => {
  const point = brush ? null : pointed(event);
  if (brush) {
    const [, y] = inside(left, event);
    left.querySelector(".brush")?.remove();
    add(left, "rect", {
      class: "brush",
      x: brush.part.x - 7,
      width: 14,
      y: Math.min(brush.from, y),
      height: Math.abs(y - brush.from),
      fill: "var(--c0)",
      opacity: 0.35,
      "pointer-events": "none",
    });
  }
  point === null ? hide() : tip(event, `${spot(point).replaceAll(", ", "\n")}\n${about(point).replace("; ", "\n")}`);
});
left.addEventListener("click", event => {
  if (event.target.dataset?.axis !== undefined) return;
  const point = pointed(event);
  if (point !== null) {
    S.at = places(point);
    draw();
  }
});
left.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const moved =
    S.view === "map" ? mapKey(event.key) : S.view === "along" ? along(S.x, event.key) : cloudKey(left, event.key);
  const pin = event.key === "Enter" || event.key === " " || event.key === "p";
  if (pin) togglePin(here());
  if (moved || pin) {
    event.preventDefault();
    draw();
  }
});

/* ---- the curve: a click chooses the time, or the place along the axis */
const right = $("right");
right.addEventListener("pointermove", event => {
  const step = right.near?.(inside(right, event)[0]),
    o = D.observed[S.observable];
  if (!step) return hide();
  const at =
    S.over < 0
      ? `${D.clock} ${show(D.times[step.place])}`
      : `${D.axes[S.over].label} ${show(D.axes[S.over].values[step.place])}`;
  tip(
    event,
    `${at}\n${o.name} ${show(o.middle[step.k])}${D.seeds > 1 ? `\n10 % to 90 %: ${show(o.low[step.k])} to ${show(o.high[step.k])}` : ""}`,
  );
});
right.addEventListener("click", event => {
  const step = right.near?.(inside(right, event)[0]);
  if (!step) return;
  if (S.over < 0) S.time = step.place;
  else S.at[S.over] = step.place;
  draw();
});
for (const svg of [left, right]) svg.addEventListener("pointerleave", hide);

/* ---- the table */
const body = $("table").tBodies[0];
body.addEventListener("click", event => {
  const row = event.target.closest("[data-point]");
  if (!row) return;
  S.at = places(Number(row.dataset.point));
  draw();
});
body.addEventListener("keydown", event => {
  const row = event.target.closest("tr"),
    to = { ArrowDown: row?.nextSibling, ArrowUp: row?.previousSibling, Home: body.firstChild, End: body.lastChild }[
      event.key
    ];
  if (event.key === "p" && row) {
    togglePin(Number(row.dataset.point));
    draw();
  }
  if (!to) return;
  event.preventDefault();
  const id = to.querySelector("button").id;
  S.at = places(Number(to.dataset.point));
  draw();
  $(id).focus();
});
$("search").addEventListener("input", () => {
  S.search = $("search").value;
  draw();
});

/* ---- buttons */
$("pin").onclick = () => {
  togglePin(here());
  draw();
};
$("as-toml").onclick = () => copy("toml");
$("as-python").onclick = () => copy("python");
$("save-table").onclick = () => save(`${D.file}.csv`, "text/csv", csvText());
$("left-save").onclick = () =>
  save(`${D.file}-${S.view}.svg`, "image/svg+xml", svgText(left, $("left-title").textContent));
$("right-save").onclick = () =>
  save(`${D.file}-curve.svg`, "image/svg+xml", svgText(right, `${$("right-title").textContent}: ${spot(here())}`));
$("controls").onsubmit = event => event.preventDefault();

/* ---- the start */
const F = D.facts,
  numeric =
    COLUMNS.find(c => c.axis !== undefined && !c.texts && sizes[c.axis] > 1) ??
    COLUMNS.find(c => c.observed !== undefined);
$("facts").textContent =
  ["points", "finished", "failed"].map(key => `${F[key].toLocaleString("en")} ${key}`).join(", ") +
  ` · ${F.method}, ${F.precision}, ${F.device} · ${F["made with"]}`;
$("plan").textContent = JSON.stringify(F.plan, null, 2);
$("example").textContent =
  `${quoted(numeric.name)} > ${show(range(everyPoint.map(numeric.of))[0])} ` +
  `${quoted(D.observed[0].name)} < ${show(wholeRange(0)[1])} failed`;
$("search").placeholder = $("example").textContent;
readAddress();
draw();
addEventListener("hashchange", () => {
  if (location.hash !== written && (location.hash || "#") !== written) {
    readAddress();
    draw();
  }
});
dark.addEventListener("change", draw);
let before = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== before) {
    before = innerWidth;
    draw();
  }
});
document.body.dataset.ready = "yes";

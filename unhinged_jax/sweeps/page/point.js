/* The chosen point: what it is, pinned points, and the run of a point as a file or as Python. */
const togglePin = point => {
  const place = S.pins.indexOf(point);
  if (place >= 0) S.pins.splice(place, 1);
  else if (S.pins.length < PINS) S.pins.push(point);
  else $("copied").textContent = `${PINS} points are pinned; remove one first.`;
};
const drawPoint = () => {
  const point = here(),
    pinned = S.pins.includes(point);
  const text = `${spot(point)}: ${about(point)}${when()}`;
  if ($("point").textContent !== text) $("point").textContent = text;
  $("pin").textContent = pinned ? "Remove the pin" : "Pin";
  $("pins").replaceChildren(
    ...S.pins.map((p, pin) => {
      const item = document.createElement("li"),
        number = document.createElement("span"),
        go = document.createElement("button"),
        away = document.createElement("button"),
        told = document.createElement("span");
      Object.assign(number, { className: "number", textContent: `●${pin + 1}` });
      number.style.color = `var(--c${pin + 1})`;
      Object.assign(go, {
        type: "button",
        id: `go-${p}`,
        textContent: spot(p),
        onclick: () => {
          S.at = places(p);
          draw();
        },
      });
      go.style.whiteSpace = "normal";
      Object.assign(told, { className: "soft", textContent: about(p) });
      Object.assign(away, {
        type: "button",
        id: `away-${p}`,
        textContent: "×",
        onclick: () => {
          togglePin(p);
          draw();
          ($(`away-${S.pins[Math.min(pin, S.pins.length - 1)]}`) ?? $("pin")).focus();
        },
      });
      away.setAttribute("aria-label", `Remove pin ${pin + 1}`);
      item.append(number, go, told, away);
      return item;
    }),
  );
  if (!$("code").hidden) $("code").textContent = codeOf($("code").dataset.kind);
};

/* ---- the run of a point */
const setKey = (tables, key, v) => {
  const way = key.split("."),
    last = way.pop();
  let place = tables;
  for (const part of way) place = place[part] ??= {};
  place[last] = v;
};
/* Tables of one run: those of the plan with the values of a point, and `seed` where seeds go. */
const runOf = (point, seed) => {
  const { sweep, ...tables } = structuredClone(D.run.tables);
  D.axes.forEach((a, d) =>
    a.parts.forEach(part =>
      part.keys.forEach(key => setKey(tables, key, structuredClone(part.given[placeOn(point, d)]))),
    ),
  );
  for (const key of seed === null ? [] : D.run.seeded) setKey(tables, key, seed);
  return tables;
};
const isTable = v => v !== null && typeof v === "object" && !Array.isArray(v);
const tomlKey = key => (/^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key));
/* JSON writes texts as TOML does; DEL is the one letter that TOML wants escaped and JSON does not. */
const tomlValue = v =>
  isTable(v)
    ? `{${Object.entries(v)
        .map(([key, item]) => `${tomlKey(key)} = ${tomlValue(item)}`)
        .join(", ")}}`
    : Array.isArray(v)
      ? `[${v.map(tomlValue).join(", ")}]`
      : JSON.stringify(v).replaceAll("\x7f", "\\u007F");
const toml = tables =>
  Object.entries(tables)
    .filter(([, table]) => Object.keys(table).length)
    .map(([name, table]) =>
      [`[${tomlKey(name)}]`, ...Object.entries(table).map(([key, v]) => `${tomlKey(key)} = ${tomlValue(v)}`)].join(
        "\n",
      ),
    )
    .join("\n\n") + "\n";
const python = (v, indent = "") => {
  if (v === true || v === false) return v ? "True" : "False";
  if (isTable(v)) {
    const inner = Object.entries(v).map(([key, item]) => `${JSON.stringify(key)}: ${python(item, indent + "    ")}`),
      line = `{${inner.join(", ")}}`;
    return line.length + indent.length < 90
      ? line
      : `{\n${inner.map(item => `${indent}    ${item},\n`).join("")}${indent}}`;
  }
  return Array.isArray(v) ? `[${v.map(item => python(item, indent)).join(", ")}]` : JSON.stringify(v);
};
const codeOf = kind => {
  const point = here(),
    what = spot(point).replaceAll("\n", " ");
  if (D.run.kind === "function") {
    const given = D.axes.flatMap((a, d) => a.parts.map(part => [part.keys[0], part.given[placeOn(point, d)]]));
    if (kind === "toml") return `# ${what}\n` + given.map(([key, v]) => `${tomlKey(key)} = ${tomlValue(v)}\n`).join("");
    const draws = D.run.seeds.length ? `key=jax.random.key(${D.run.seeds[0]})` : "",
      words = given.some(([, v]) => typeof v === "string")
        ? "# A text stands for the static value of that label.\n"
        : "";
    const passed = [...given.map(([key, v]) => `${key}=${python(v)}`), draws].filter(Boolean).join(", ");
    const either = draws ? `  # or seed=${D.run.seeds[0]}, if that is what it takes` : "";
    return `${draws ? "import jax\n\n" : ""}${words}run = ${D.run.name}(${passed})${either}\n`;
  }
  const { method, seeds, seeded } = D.run,
    exact = method === "exact";
  if (kind === "toml")
    return `# ${what}\n# unhinged simulate point.toml --out point${exact ? " --exact" : ""}\n\n${toml(runOf(point, seeds[0]))}`;
  const sweep = { method, seeds, ...(seeded.length === 1 && seeded[0] === "state.seed" ? {} : { seeded }) };
  const tables = python({ ...runOf(point, null), sweep });
  const run = 'data = uj.sweep(uj.SweepPlan.of(tables), "point.zarr", workers=0)';
  return `import unhinged_jax as uj\n\n# ${what}\ntables = ${tables}\n${run}\n`;
};
const copy = async kind => {
  const text = codeOf(kind);
  Object.assign($("code"), { hidden: false, textContent: text });
  $("code").dataset.kind = kind;
  const name = { toml: "TOML", python: "Python" }[kind];
  try {
    await navigator.clipboard.writeText(text);
    $("copied").textContent = `Copied as ${name}.`;
  } catch {
    getSelection().selectAllChildren($("code"));
    $("copied").textContent = `Selected below; press Ctrl+C or ⌘C to copy the ${name}.`;
  }
};

/* ---- which axis matters */
const drawShares = () => {
  const o = D.observed[S.observable],
    body = $("shares").tBodies[0],
    shares = D.sources.map((_, k) => o.shares[k * T + S.time]),
    known = shares.some(Number.isFinite),
    classes = random >= 0 ? " (axes of the random design: in classes of equal size)" : "";
  $("shares-note").textContent = known
    ? `of ${o.logarithm ? "the logarithm of " : ""}${o.name}${when()}, over all points${D.seeds > 1 ? " and seeds" : ""}: ` +
      `each axis alone${classes}, and what only their combinations explain`
    : `${o.name} does not vary${when()}.`;
  $("shares").hidden = !known;
  body.replaceChildren();
  D.sources.forEach((source, k) => {
    if (!Number.isFinite(shares[k])) return;
    const row = body.insertRow(),
      name = row.appendChild(document.createElement("th")),
      cell = row.insertCell(),
      bar = document.createElement("span");
    name.scope = "row";
    name.textContent = source;
    bar.className = "bar";
    bar.style.width = `${Math.round(110 * Math.min(1, Math.max(0, shares[k])))}px`;
    cell.append(bar, shares[k] < 5e-4 ? "0 %" : `${(100 * shares[k]).toFixed(shares[k] < 0.0095 ? 1 : 0)} %`);
  });
};

/* The search: conditions such as gamma > 0.2, and words. What is wrong with it is said in a sentence. */
const OPERATIONS = {
  ">": (a, b) => a > b,
  "<": (a, b) => a < b,
  ">=": (a, b) => a >= b,
  "<=": (a, b) => a <= b,
  "=": (a, b) => a === b,
  "!=": (a, b) => a !== b,
};
const quoted = text => (/[\s<>=!"]/.test(text) ? `"${text}"` : text);
const bare = text => text.replace(/^"(.*)"$/, "$1");
/* Terms of a search: {name, operation, given, text} of a condition, {word, text} otherwise. Blanks around an operator do
   not matter. */
const terms = text => {
  const piece = `"[^"]*"|[^\\s<>=!"]+`;
  const pattern = new RegExp(`(${piece})?\\s*(<=|>=|!=|==|<|>|=)\\s*(${piece})?|${piece}|\\S`, "g");
  return [...text.matchAll(pattern)].map(([all, name, operation, given]) =>
    operation
      ? {
          name: bare(name ?? ""),
          operation: operation === "==" ? "=" : operation,
          given: given === undefined ? "" : bare(given),
          text: all.trim(),
        }
      : { word: bare(all), text: all },
  );
};
/* A number equals one that is shown rounded to it. */
const same = (a, b) => a === b || show(a) === show(b);
/* {test: point -> boolean, said: a sentence or ""} of one term. */
const read = term => {
  if (term.word !== undefined) {
    const word = term.word.toLowerCase();
    if (word === "failed") return { test: p => failed[p] > 0, said: "" };
    const test = p =>
      D.axes.some((a, d) => a.parts.some(part => String(part.shown[placeOn(p, d)]).toLowerCase().includes(word))) ||
      (D.reasons[p] ?? "").includes(word);
    const known = column(term.word) ? ` To compare a column, write for example ${quoted(term.word)} > 0.` : "";
    return { test, said: known, none: `No value of an axis and no reason holds “${term.word}”.${known}` };
  }
  const col = column(term.name);
  if (!term.name)
    return { said: `Write a column before “${term.operation}”; columns are ${COLUMNS.map(c => c.name).join(", ")}.` };
  if (!col) return { said: `There is no column ${term.name}; columns are ${COLUMNS.map(c => c.name).join(", ")}.` };
  if (term.given === "") return { said: `Write a value after ${term.name} ${term.operation}.` };
  if (col.texts) {
    if (term.operation !== "=" && term.operation !== "!=")
      return { said: `The values of ${col.name} are words, which have no order; use = or !=.` };
    const wanted = String(term.given),
      none = `No point has ${col.name} = ${wanted}; it is ${col.texts.join(", ")}.`;
    return { test: p => (String(col.of(p)) === wanted) === (term.operation === "="), said: "", none };
  }
  const wanted = Number(term.given);
  if (Number.isNaN(wanted)) return { said: `${col.name} is compared with a number, not with “${term.given}”.` };
  const compare = { "=": same, "!=": (a, b) => !same(a, b) }[term.operation] ?? OPERATIONS[term.operation];
  const values = everyPoint.map(col.of),
    [low, high] = range(values),
    moment = col.observed === undefined ? "" : when();
  const none = values.some(Number.isFinite)
    ? `No point has ${col.name} ${term.operation} ${term.given}; it goes from ${show(low)} to ${show(high)}${moment}.`
    : `${col.name} has no value${when()}.`;
  return { test: p => compare(col.of(p), wanted), said: "", none };
};
/* Which points a search finds at the moment that is shown, and what to say about it. */
let asked = {};
const search = () => {
  const key = `${S.search}\n${S.time}`;
  if (asked.key === key) return asked;
  const parts = terms(S.search).map(read),
    tests = parts.filter(r => r.test),
    found = [];
  const is = new Uint8Array(total);
  for (let p = 0; p < total; p++)
    if (tests.every(r => r.test(p))) {
      is[p] = 1;
      found.push(p);
    }
  const said = parts.filter(r => !r.test).map(r => r.said);
  if (!found.length && !said.length) {
    const alone = parts.filter(r => !everyPoint.some(r.test)).map(r => r.none);
    said.push(
      ...(alone.length ? alone : ["No point meets all of these conditions; each of them alone is met by some."]),
    );
  }
  return (asked = { key, found, is, said: said.join(" ") });
};
const matches = point => search().is[point] === 1;

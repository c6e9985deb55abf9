// Equations are set after the page is there, some at a time, so that a long page can be read and scrolled at once.
window.addEventListener("load", async () => {
  if (!window.MathJax || !MathJax.startup) return;
  await MathJax.startup.promise;
  const rest = [...document.querySelectorAll(".math")];
  let moved = false;
  for (const what of ["wheel", "touchmove", "keydown", "mousedown"]) window.addEventListener(what, () => { moved = true; }, { once: true });
  while (rest.length) {
    await MathJax.typesetPromise(rest.splice(0, 25));
    await new Promise((done) => setTimeout(done));
  }
  // What stood above the place that the address names has changed its height.
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (place && !moved) place.scrollIntoView();
});

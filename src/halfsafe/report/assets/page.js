// Everything together

function select(i, scroll = true) {
  state.selected = i;
  if (scroll) reveal(i);
  showRows();
  showMap();
  showDetails();
  document.getElementById("selected").textContent =
    `${names[i]}, amax ${short(values.amax[i])}${faults.has(i) ? `, ${faults.get(i)}` : ""}`;
}

function setUpView() {
  const view = document.getElementById("view");
  const note = document.getElementById("view-note");
  view.disabled = !moved;
  if (!moved)
    note.textContent =
      data.tool === "fix"
        ? "The plan leaves every value as it is."
        : `${data.tool} changes nothing: a fix shows the rescaled ranges here.`;
  view.addEventListener("change", (event) => {
    state.after = event.target.value === "after";
    showMap();
  });
  document.getElementById("constants").addEventListener("change", (event) => {
    state.constants = event.target.checked;
    showMap();
  });
}

function setUpTheme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const apply = () => {
    const dark = chosen ?? system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
    colours = readColours();
    showMap();
    if (chart) chart.setOption(histogramOption(state.selected));
  };
  button.addEventListener("click", () => {
    chosen = !(chosen ?? system.matches);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

/** Faults, culprits and runs select a value: a fault wherever it is clicked. */
function setUpLinks() {
  const index = new Map(names.map((name, i) => [name, i]));
  for (const button of document.querySelectorAll("main button[data-value]")) {
    const i = index.get(button.dataset.value);
    if (i === undefined) continue;
    (button.closest(".fault") ?? button).addEventListener("click", () => {
      if (String(getSelection())) return;
      select(i);
      document.getElementById("explorer").scrollIntoView({ behavior: "smooth" });
    });
  }
}

/** The value that the page opens with: of the culprit or the worst fault, or the one with the least headroom. */
function mostTelling() {
  const worst = document.querySelector(".culprit h3 button, .fault button")?.dataset.value;
  const rooms = names.map((_, i) =>
    values.bounded[i] ? (values.headroom[i] ?? Infinity) : Infinity,
  );
  const closest = rooms.indexOf(rooms.reduce((a, b) => Math.min(a, b), Infinity));
  return names.includes(worst) ? names.indexOf(worst) : Math.max(closest, total ? 0 : -1);
}

buildHead();
search.addEventListener("input", filterRows);
onlyFaults.addEventListener("change", filterRows);
scroller.addEventListener("scroll", () => requestAnimationFrame(showRows));
state.selected = mostTelling();
setUpView();
setUpLinks();
setUpTheme();
filterRows();
reveal(state.selected);
showDetails();
new ResizeObserver(() => {
  if (host.clientWidth === map.getWidth()) return;
  map.resize();
  showMap();
  chart?.resize();
}).observe(host);

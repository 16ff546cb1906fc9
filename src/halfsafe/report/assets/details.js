// The details of the selected value

const details = document.getElementById("details");
let chart = null;

function link(i) {
  return make("button", { type: "button", className: "link", onclick: () => select(i) }, names[i]);
}

function fact(label, shown) {
  return shown === "" ? null : make("div", {}, make("dt", {}, label), make("dd", {}, shown));
}

function figures(i) {
  const entries = values.count[i].toLocaleString("en");
  const error = values.times_floor[i];
  const least = values.smallest[i] === null ? "" : short(values.smallest[i]);
  return make(
    "dl",
    { className: "facts" },
    fact("amax", `${short(values.amax[i])}${isConstant(i) ? "" : `, sample ${values.sample[i]}`}`),
    fact("smallest", least),
    fact("headroom", values.headroom[i] === null ? "" : `${bits(values.headroom[i])} bits`),
    fact("entries", `${entries}, ${values.zeros[i].toLocaleString("en")} zero`),
    fact("nonfinite", values.nonfinite[i] ? String(values.nonfinite[i]) : ""),
    fact(
      "FP16 error",
      error === null || error === undefined
        ? ""
        : `${short(values.error[i])}, ${short(error)} × floor`,
    ),
    fact(
      "only in FP16",
      values.broken[i] ? `${values.broken[i].toLocaleString("en")} nonfinite` : "",
    ),
  );
}

/** What a value's own window asks of its exponent, to be read behind "its" or "whose". */
function demand(i) {
  const [low, high] = [values.low[i], values.high[i]];
  const plural = data.headroom === 1 ? "" : "s";
  const room = isConstant(i) ? "" : `, ${data.headroom} bit${plural} of headroom included`;
  if (low !== null && low > 0)
    return `amax ${short(values.amax[i])} needs exponent ${low} or more${room}`;
  if (high !== null && high < 0)
    return `small entries need exponent ${high} or less to stay precise`;
  return "";
}

function windowOf(i) {
  const [low, high] = [values.low[i], values.high[i]];
  if (low === null && high === null) return "no limit";
  if (low === null) return `${high} or less`;
  return high === null ? `${low} or more` : `${low} to ${high}`;
}

/** How a value fares at exponent 0, where nothing was planned. */
function whyUnplanned(i) {
  const own = demand(i);
  if (!own) return "It fits as it is, at exponent 0.";
  const fits = values.low[i] > 0 && values.headroom[i] >= 0;
  return `It ${fits ? "fits, but within the headroom" : "is out of range as it is"}: its ${own}.`;
}

/** Why the plan stores a value at its exponent, as words and links. */
function why(i) {
  const [k, own, driver] = [values.exponent[i], demand(i), values.driver[i]];
  if (data.tool !== "fix") return [whyUnplanned(i)];
  if (k === 0) return [own ? `It stays as it is, although its ${own}.` : "It fits as it is."];
  const nearest = values.low[i] > 0 ? values.low[i] : values.high[i];
  const settled = k === nearest ? "" : ` The values tied to it settle it at ${k}.`;
  if (driver === i) return [`Its ${own}.${settled}`];
  const itself = own ? `Its ${own}. ` : "By itself it could stay as it is. ";
  if (driver < 0) return [itself, "Its exponent follows from the laws of its operators."];
  const law = make("code", {}, text(values.tie[i]));
  return [itself, "It is tied to ", link(driver), `, whose ${demand(driver)}, by `, law, "."];
}

function reasons(i) {
  const pin = text(values.pin[i]);
  const title = data.tool === "fix" ? `Exponent ${values.exponent[i]}` : "Exponent";
  const facts = make(
    "dl",
    { className: "facts" },
    fact("window", values.bounded[i] ? windowOf(i) : "computed in FP32"),
    fact("nearest pin", pin),
  );
  return [make("h4", {}, title), make("p", {}, ...why(i)), facts];
}

/** A value by link, or whatever else an operator reads by its name. */
const operand = (found) => (typeof found === "number" ? link(found) : make("code", {}, found));

function laws(n) {
  const lines = nodes.laws[n].map((law) => make("li", {}, make("code", {}, text(law))));
  return lines.length ? make("ul", { className: "laws" }, ...lines) : null;
}

function heading(n) {
  const module = text(nodes.module[n]);
  return make(
    "p",
    {},
    make("b", {}, text(nodes.op[n])),
    " ",
    make("code", {}, text(nodes.name[n])),
    module ? ` in ${module}` : "",
  );
}

function certificate(i) {
  if (!standing(i)) return [];
  const { bound, above, by } = values;
  const facts = make(
    "dl",
    { className: "facts" },
    fact("status", standing(i)),
    fact("bound", bound[i] === null ? "" : `${limit(bound[i])} as delivered`),
    fact("inequality", text(by[i])),
    fact("above amax", above[i] === null ? "" : `${bits(above[i])} bits`),
  );
  return [make("h4", {}, "For every input of the domain"), facts];
}

function producer(i) {
  const n = values.producer[i];
  if (n < 0) return [];
  const inputs = nodes.inputs[n].map(([key, found]) =>
    make("li", {}, `${text(key)}: `, operand(found)),
  );
  const line = text(nodes.line[n]);
  return [
    make("h4", {}, "Producer"),
    heading(n),
    line ? make("p", { className: "line", title: line }, tail(line, 4)) : null,
    make("ul", { className: "operands" }, ...inputs),
    laws(n),
  ];
}

function reader(n) {
  const outputs = nodes.outputs[n].flatMap((found) => [operand(found), " "]);
  return make("li", {}, heading(n), make("p", {}, "gives ", ...outputs), laws(n));
}

function readers(i) {
  const found = values.readers[i];
  const output = values.output[i] ? make("p", {}, "An output of the network.") : null;
  if (!found.length) return [output];
  const [seen, rest] = [found.slice(0, 4), found.slice(4)];
  const more = make("details", {}, make("summary", {}, `${rest.length} more`));
  more.addEventListener(
    "toggle",
    () => more.append(make("ul", { className: "readers" }, ...rest.map(reader))),
    { once: true },
  );
  const list = make("ul", { className: "readers" }, ...seen.map(reader));
  return [
    make("h4", {}, found.length === 1 ? "Reader" : `Readers (${found.length})`),
    output,
    list,
    rest.length ? more : null,
  ];
}

/** A power of ten as a share: 1 %. */
const decade = (n) => (n >= -2 ? `${100 * 10 ** n} %` : n % 2 ? "" : `10${power(n).slice(1)}`);

/** A bar for each binade, coloured by what FP16 does with it; before, and after if it moved. */
function histogramOption(i) {
  const words = { color: colours.quiet, fontFamily: "system-ui, sans-serif", fontSize: 10 };
  const runs = values.exponent[i] ? [0, values.exponent[i]] : [0];
  const all = runs.map((exponent) => shares(i, exponent));
  const binades = all.flat().map(([binade]) => binade);
  const low = Math.min(data.least_binade, ...binades) - 1;
  const high = Math.max(data.max_binade, ...binades) + 1;
  const axisNames = Array.from({ length: high - low + 1 }, (_, n) => power(low + n));
  const rarest = Math.min(0.01, ...all.flat().map(([, share]) => share));
  const decades = 1 - Math.floor(Math.log10(rarest));
  const bars = (found, faint) => ({
    type: "bar",
    name: faint ? "as it is" : "stored",
    barGap: "-100%",
    barCategoryGap: "12%",
    data: found.map(([binade, share]) => ({
      value: [binade - low, decades + Math.log10(share), share],
      itemStyle: faint
        ? { color: "transparent", borderColor: colours.quiet, borderWidth: 1 }
        : { color: colours[values.bounded[i] ? ZONES[zone(binade)] : "wide"] },
    })),
  });
  const band = (from, to, opacity) => [
    { xAxis: from - low, itemStyle: { color: colours.band, opacity } },
    { xAxis: to - low },
  ];
  const series = all.map((found, n) => bars(found, n < all.length - 1));
  const bands = [
    band(data.min_binade, data.max_binade, 1),
    band(data.least_binade, data.min_binade - 1, 0.5),
  ];
  series[0].markArea = { silent: true, data: bands };
  return {
    animation: false,
    grid: { left: 44, right: 8, top: 8, bottom: 22 },
    tooltip: {
      confine: true,
      backgroundColor: colours.panel,
      borderColor: colours.line,
      textStyle: { color: colours.ink, fontSize: 12 },
      formatter: ({ value, seriesName }) =>
        make("span", {}, `${power(value[0] + low)}, ${seriesName}: ${percent(value[2])} %`),
    },
    xAxis: {
      type: "category",
      data: axisNames,
      axisTick: { show: false },
      axisLine: { lineStyle: { color: colours.line } },
      axisLabel: { ...words, hideOverlap: true },
    },
    yAxis: {
      min: 0,
      max: decades,
      interval: 1,
      axisLabel: { ...words, formatter: (height) => decade(height - decades) },
      splitLine: { lineStyle: { color: colours.line } },
    },
    series,
  };
}

function showHistogram(i, place) {
  chart?.dispose();
  chart = null;
  if (histograms[values.histogram[i]].length < 2) {
    place.className = "quiet";
    place.textContent = "No entry is finite and other than zero.";
    return;
  }
  chart = echarts.init(place);
  chart.setOption(histogramOption(i));
}

function showDetails() {
  const i = state.selected;
  if (i < 0) {
    details.replaceChildren(make("p", { className: "quiet" }, "No value was measured."));
    return;
  }
  const place = make("div", {
    className: "histogram",
    role: "img",
    "aria-label": `Histogram of ${names[i]} by binade`,
  });
  const k = values.exponent[i];
  const stored = values.bounded[i] ? "FP16" : "FP32";
  const about = [text(values.kind[i]), text(values.shape[i]), `stored in ${stored}`].join(" · ");
  const badge = faults.has(i)
    ? make("span", { className: `kind ${faults.get(i)}` }, faults.get(i))
    : null;
  const parts = [
    make("h3", {}, names[i], " ", badge ?? ""),
    make("p", { className: "quiet" }, about),
    place,
    k
      ? make("p", { className: "quiet" }, `Outlined: as it is. Filled: stored at exponent ${k}.`)
      : null,
    figures(i),
    ...reasons(i),
    ...certificate(i),
    ...producer(i),
    ...readers(i),
  ];
  details.replaceChildren(...parts.filter((part) => part !== null));
  details.scrollTop = 0;
  showHistogram(i, place);
}

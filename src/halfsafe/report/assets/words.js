// Draws the explorer from the data block: the range map, the table and the details of one value.
// Texts from the model only ever become text nodes.

const data = JSON.parse(document.getElementById("data").textContent);
const { values, nodes, texts, histograms, names } = data;
const total = names.length;
const text = (i) => texts[i];
const number = (x) => (x === "inf" ? Infinity : x);
for (const key of ["headroom", "error", "times_floor"])
  values[key] = (values[key] ?? []).map(number);

const faults = new Map(data.faults);
const moved = (values.exponent ?? []).some((k) => k !== 0);
const compared = (values.broken ?? []).some((x) => x !== null);
const certified = values.status !== undefined;
const isConstant = (i) => text(values.kind[i]) === "constant";
const state = { selected: -1, after: false, constants: false, shown: [] };

// Words and numbers

const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const power = (n) =>
  "2" +
  String(n)
    .replace("-", "⁻")
    .replace(/\d/g, (digit) => SUPERSCRIPT[digit]);

function short(x) {
  if (x === null || x === undefined) return "";
  if (!Number.isFinite(x)) return "∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-3 || size >= 1e6) return x.toExponential(2).replace("e+", "e");
  return Number(x.toPrecision(4)).toLocaleString("en");
}

const bits = (x) => (x === null ? "" : Number.isFinite(x) ? x.toFixed(1) : "∞");

/** A bound, with all of its four digits: with fewer it would be rounded down. */
function limit(x) {
  const plain = x === null || x === 0 || (x >= 1e-3 && x < 1e6);
  return plain ? short(x) : x.toExponential(3).replace("e+", "e");
}

/** Whether FP16 is known to hold a value for every input of the domain, or why it is not. */
function standing(i) {
  return certified ? [text(values.status[i]), text(values.lost[i])].filter(Boolean).join(": ") : "";
}

function percent(share) {
  if (!share) return "";
  return share < 1e-4 ? "<0.01" : (100 * share).toFixed(share < 0.1 ? 2 : 1);
}

const tail = (path, parts) => path.split("/").slice(-parts).join("/");

/** An element with properties, listeners included, and children: nodes or plain text. */
function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Colours, resolved from the style sheet for the canvas

const probe = document.body.appendChild(make("i", { hidden: true }));

function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

const NAMES = "ink quiet line panel accent band overflow normal subnormal lost wide".split(" ");
const readColours = () => Object.fromEntries(NAMES.map((name) => [name, colour(name)]));
let colours = readColours();

const ZONES = ["lost", "subnormal", "normal", "overflow", "wide"];

/** What FP16 does with an entry of a binade. */
function zone(binade) {
  if (binade > data.max_binade) return 3;
  if (binade >= data.min_binade) return 2;
  return binade >= data.least_binade ? 1 : 0;
}

/** [binade, share] of a value's nonzero entries, stored at an exponent. */
function shares(i, exponent) {
  const [lowest, ...counts] = histograms[values.histogram[i]];
  const entries = counts.reduce((sum, n) => sum + n, 0);
  return counts
    .map((n, offset) => [lowest + offset - exponent, n / entries])
    .filter(([, share]) => share > 0);
}

/** The binary logarithm of a value's bound, at an exponent; null where there is nothing to show. */
function boundAt(i, exponent) {
  const bound = certified ? values.bound[i] : null;
  return bound ? Math.log2(bound) + values.exponent[i] - exponent : null;
}

const exponentShown = (i) => (state.after ? values.exponent[i] : 0);

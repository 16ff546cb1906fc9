// The table: only the rows in sight exist

const ROW = 30;
const COLUMNS = [
  { label: "name", width: 190, get: (i) => names[i], button: true },
  { label: "operator", width: 138, get: (i) => text(values.op[i]) || text(values.kind[i]) },
  { label: "module", width: 190, get: (i) => text(values.module[i]), end: true },
  { label: "fault", width: 112, get: (i) => faults.get(i) ?? "", badge: true },
  { label: "amax", width: 92, get: (i) => values.amax[i], show: short },
  {
    label: "headroom",
    title: "bits left above amax",
    width: 92,
    get: (i) => values.headroom[i],
    show: bits,
  },
  {
    label: "exponent",
    width: 88,
    get: (i) => values.exponent[i],
    show: (k) => (k ? String(k) : ""),
    when: moved,
  },
  {
    label: "bound",
    title: "as delivered, for every input of the domain",
    width: 92,
    get: (i) => values.bound[i],
    show: limit,
    when: certified,
  },
  {
    label: "certificate",
    width: 176,
    get: (i) => text(values.status[i]),
    when: certified,
  },
  {
    label: "error / floor",
    title: "of the entries that are finite in FP16",
    width: 106,
    get: (i) => values.times_floor[i],
    show: short,
    when: compared,
  },
  {
    label: "nonfinite",
    title: "entries that only FP16 makes nonfinite",
    width: 92,
    get: (i) => values.broken[i],
    show: (n) => (n ? n.toLocaleString("en") : ""),
    when: compared,
  },
  { label: "overflow %", width: 98, get: (i) => values.overflowing[i], show: percent },
  { label: "subnormal %", width: 110, get: (i) => values.subnormal[i], show: percent },
  { label: "lost %", width: 78, get: (i) => values.lost[i], show: percent },
  { label: "smallest", width: 92, get: (i) => values.smallest[i], show: short },
  { label: "line", width: 190, get: (i) => text(values.line[i]), part: (x) => tail(x, 1) },
  { label: "kind", width: 92, get: (i) => text(values.kind[i]) },
  { label: "shape", width: 140, get: (i) => text(values.shape[i]) },
].filter((column) => column.when ?? true);
const isNumeric = (column) => column.show !== undefined;

const scroller = document.getElementById("rows");
const body = scroller.querySelector("tbody");
const search = document.getElementById("search");
const onlyFaults = document.getElementById("only-faults");
const haystack = names.map((name, i) =>
  [name, text(values.op[i]), text(values.module[i]), text(values.line[i])].join(" ").toLowerCase(),
);
const table = { rows: [], column: null, descending: false };

function buildHead() {
  const head = scroller.querySelector("thead tr");
  for (const column of COLUMNS) {
    const sort = make(
      "button",
      { type: "button", title: column.title ?? "", onclick: () => sortBy(column) },
      column.label,
    );
    const className = isNumeric(column) ? "number" : "";
    head.append(make("th", { scope: "col", className, "aria-sort": "none" }, sort));
    scroller.querySelector("colgroup").append(make("col", { style: `width:${column.width}px` }));
  }
  scroller.querySelector("table").style.width = `${COLUMNS.reduce((sum, c) => sum + c.width, 0)}px`;
}

/** Sorts largest or first letter first, then the other way round, then as in the network. */
function sortBy(column) {
  const start = isNumeric(column);
  if (table.column !== column) [table.column, table.descending] = [column, start];
  else if (table.descending === start) table.descending = !start;
  else table.column = null;
  scroller.querySelectorAll("th").forEach((head, n) => {
    const order = table.descending ? "descending" : "ascending";
    head.setAttribute("aria-sort", COLUMNS[n] === table.column ? order : "none");
  });
  filterRows();
}

/** By a column; values that have no figure come last either way. */
function compare(a, b) {
  const [x, y] = [table.column.get(a), table.column.get(b)];
  const missing = (z) => z === null || z === "";
  if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
  const order = typeof x === "string" ? x.localeCompare(y) : x === y ? 0 : x - y;
  return (table.descending ? -order : order) || a - b;
}

function filterRows() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  table.rows = names
    .map((_, i) => i)
    .filter((i) => !onlyFaults.checked || faults.has(i))
    .filter((i) => words.every((word) => haystack[i].includes(word)));
  if (table.column) table.rows.sort(compare);
  scroller.querySelector("table").setAttribute("aria-rowcount", table.rows.length + 1);
  document.getElementById("count").textContent =
    `${table.rows.length.toLocaleString("en")} of ${total.toLocaleString("en")} values`;
  scroller.scrollTop = 0;
  showRows();
}

function cell(column, i) {
  const found = column.get(i);
  if (isNumeric(column)) return make("td", { className: "number" }, column.show(found));
  if (column.badge)
    return make("td", {}, found && make("span", { className: `kind ${found}` }, found));
  if (column.button) {
    const name = make("button", { type: "button", className: "plain" }, make("bdi", {}, found));
    return make("td", { className: "end", title: found }, name);
  }
  const shown = column.part ? column.part(found) : found;
  const properties = { className: column.end ? "end" : "", title: found };
  return make("td", properties, column.end ? make("bdi", {}, shown) : shown);
}

function row(place) {
  const i = table.rows[place];
  return make(
    "tr",
    {
      "data-value": i,
      "aria-rowindex": place + 2,
      "aria-selected": String(i === state.selected),
      onclick: () => select(i, false),
    },
    ...COLUMNS.map((column) => cell(column, i)),
  );
}

function showRows() {
  const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - 8);
  const last = Math.min(table.rows.length, first + Math.ceil(scroller.clientHeight / ROW) + 16);
  const focused = document.activeElement?.closest("#rows tr[data-value]")?.dataset.value;
  const filler = (rows) =>
    make(
      "tr",
      { className: "filler", "aria-hidden": "true" },
      make("td", { colSpan: COLUMNS.length, style: `height:${rows * ROW}px` }),
    );
  const rows = Array.from({ length: last - first }, (_, n) => row(first + n));
  body.replaceChildren(filler(first), ...rows, filler(table.rows.length - last));
  if (focused !== undefined)
    body.querySelector(`tr[data-value="${focused}"] button`)?.focus({ preventScroll: true });
}

/** Scrolls the table, and nothing else, until a row is in sight. */
function reveal(i) {
  const place = table.rows.indexOf(i);
  if (place < 0) return;
  const room = scroller.clientHeight - 3 * ROW;
  const top = place * ROW;
  if (top < scroller.scrollTop || top > scroller.scrollTop + room)
    scroller.scrollTop = Math.max(0, top - room / 2);
}

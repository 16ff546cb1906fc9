// The range map

// Pixels above and to the right of the plot; binades beyond which everything is drawn at the edge.
const TOP = 14;
const MARGIN = 96;
const LEAST = -44;
const MOST = 44;
const canvas = document.createElement("canvas");
const host = document.getElementById("map");
const map = echarts.init(host);
const axis = extent();
const narrow = () => host.clientWidth < 600;

/** The binades that the map shows, the same before and after. */
function extent() {
  let [low, high] = [data.least_binade - 2, data.max_binade + 3];
  for (let i = 0; i < total; i++) {
    const [lowest, ...counts] = histograms[values.histogram[i]];
    const shift = values.exponent[i];
    low = Math.min(low, lowest, lowest - shift);
    high = Math.max(high, lowest + counts.length, lowest + counts.length - shift);
    high = Math.max(high, boundAt(i, 0) ?? low, boundAt(i, shift) ?? low);
  }
  const step = 8;
  return {
    step,
    low: step * Math.floor(Math.max(low, LEAST) / step),
    high: step * Math.ceil(Math.min(high, MOST) / step),
  };
}

/** Darkness by share: a ten-thousandth of the entries still shows. */
const strength = (share) => Math.max(0.16, Math.min(1, 1 + Math.log10(share) / 4.8));

/** One canvas column: for each binade the strongest cell of the values that fall on it. */
function column(first, last) {
  const rows = axis.high - axis.low;
  const best = new Float32Array(rows);
  const zones = new Int8Array(rows);
  for (let place = first; place < last; place++) {
    const i = state.shown[place];
    for (const [binade, share] of shares(i, exponentShown(i))) {
      const row = Math.max(0, Math.min(rows - 1, binade - axis.low));
      const level = strength(share) * (values.bounded[i] ? 1 : 0.6);
      if (level <= best[row]) continue;
      best[row] = level;
      zones[row] = values.bounded[i] ? zone(binade) : 4;
    }
  }
  return { best, zones };
}

/** The window of FP16 and what lies outside it, with a word to the right of each. */
function paintBands(pen, box) {
  const { max_binade: max, min_binade: min, least_binade: least } = data;
  const spans = [
    [max + 1, axis.high, 0, "stored as inf"],
    [min, max + 1, 1, "normal"],
    [least, min, 0.5, "fewer bits"],
    [axis.low, least, 0, "stored as 0"],
  ];
  pen.font = `${11 * box.ratio}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  for (const [from, to, opacity, label] of spans) {
    const [top, bottom] = [box.y(to), box.y(from)];
    pen.globalAlpha = opacity;
    pen.fillStyle = colours.band;
    pen.fillRect(box.left, top, box.width, bottom - top);
    pen.globalAlpha = 1;
    pen.fillStyle = colours.quiet;
    if (!narrow()) pen.fillText(label, box.width + 6 * box.ratio, (top + bottom) / 2);
  }
  pen.fillStyle = colours.overflow;
  pen.fillRect(box.left, box.y(max + 1), box.width, box.ratio);
}

/** The first and the last place in sight. */
function inSight(box) {
  const first = Math.max(0, Math.floor(box.place(box.left)));
  return [first, Math.min(state.shown.length, Math.ceil(box.place(box.left + box.width)))];
}

/** From where a column reaches, and how wide it is. */
function across(box, place) {
  const [x, next] = [Math.round(box.x(place)), Math.round(box.x(place + 1))];
  return [x, Math.max(1, next - x - (box.each > 5 * box.ratio ? box.ratio : 0))];
}

/** Each value where it is at least a pixel wide, and otherwise what falls on each pixel. */
function paintCells(pen, box) {
  const paint = (x, width, { best, zones }) => {
    for (let row = 0; row < best.length; row++) {
      if (!best[row]) continue;
      const top = box.y(axis.low + row + 1);
      pen.globalAlpha = best[row];
      pen.fillStyle = colours[ZONES[zones[row]]];
      pen.fillRect(x, top, width, box.y(axis.low + row) - top);
    }
  };
  const [first, last] = inSight(box);
  if (box.each >= 1) {
    for (let place = first; place < last; place++) {
      paint(...across(box, place), column(place, place + 1));
    }
  } else {
    for (let x = box.left; x < box.left + box.width; x++) {
      const to = Math.min(last, Math.ceil(box.place(x + 1)));
      paint(x, 1, column(Math.max(first, Math.floor(box.place(x))), to));
    }
  }
}

/** A line over each column that no input of the domain passes; an arrow if it is off the map. */
function paintBounds(pen, box) {
  const [first, last] = inSight(box);
  const thick = Math.round(2 * box.ratio);
  pen.globalAlpha = 1;
  for (let place = first; place < last; place++) {
    const i = state.shown[place];
    const level = boundAt(i, exponentShown(i));
    if (level === null) continue;
    const [x, width] = across(box, place);
    const y = box.y(Math.max(axis.low, Math.min(axis.high, level)));
    pen.fillStyle = level > Math.log2(data.max) ? colours.overflow : colours.ink;
    pen.fillRect(x, y - thick, width, thick);
    if (level <= axis.high) continue;
    const [size, middle] = [Math.min(4 * box.ratio, Math.max(width / 2, box.ratio)), x + width / 2];
    pen.beginPath();
    pen.moveTo(middle - size, y + 2 * size);
    pen.lineTo(middle + size, y + 2 * size);
    pen.lineTo(middle, y);
    pen.fill();
  }
}

/** A frame around the selected value, a triangle above each fault. */
function paintMarks(pen, box) {
  const inside = (x) => x >= box.left && x <= box.left + box.width;
  const size = 5 * box.ratio;
  state.shown.forEach((i, place) => {
    const x = box.x(place + 0.5);
    if (!inside(x)) return;
    if (i === state.selected) {
      const width = Math.max(box.each + 2 * box.ratio, 7 * box.ratio);
      pen.globalAlpha = 1;
      pen.strokeStyle = colours.accent;
      pen.lineWidth = 1.5 * box.ratio;
      pen.strokeRect(x - width / 2, box.y(axis.high), width, box.y(axis.low) - box.y(axis.high));
    }
    if (!faults.has(i)) return;
    pen.globalAlpha = 1;
    pen.fillStyle = colours.ink;
    pen.beginPath();
    pen.moveTo(x - size, 3 * box.ratio);
    pen.lineTo(x + size, 3 * box.ratio);
    pen.lineTo(x, 3 * box.ratio + 1.6 * size);
    pen.fill();
  });
}

/** Paints the plot area, a margin above it for marks and one to its right for words. */
function paintMap(params, api) {
  if (params.dataIndexInside !== 0) return undefined;
  const area = params.coordSys;
  const ratio = map.getDevicePixelRatio();
  const width = area.width + MARGIN;
  const height = area.height + TOP;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const each = api.size([1, 1])[0] * ratio;
  const origin = (api.coord([-0.5, axis.low])[0] - area.x) * ratio;
  const tall = (area.height * ratio) / (axis.high - axis.low);
  const box = {
    ratio,
    each,
    left: 0,
    width: Math.round(area.width * ratio),
    x: (place) => origin + place * each,
    place: (x) => (x - origin) / each,
    y: (binade) => Math.round(TOP * ratio + (axis.high - binade) * tall),
  };
  const pen = canvas.getContext("2d");
  paintBands(pen, box);
  pen.save();
  pen.beginPath();
  pen.rect(box.left, 0, box.width, canvas.height);
  pen.clip();
  paintCells(pen, box);
  paintBounds(pen, box);
  pen.restore();
  paintMarks(pen, box);
  const style = { image: canvas, x: area.x, y: area.y - TOP, width, height };
  return { type: "image", silent: true, style };
}

/** A value in one line each: name, operator, module, figures. */
function describe(place) {
  const i = state.shown[place];
  const facts = [
    [text(values.op[i]), text(values.module[i])].filter(Boolean).join(" in "),
    `amax ${short(values.amax[i])}, headroom ${bits(values.headroom[i])} bits`,
    values.bounded[i] ? "" : "computed in FP32",
    values.exponent[i] ? `exponent ${values.exponent[i]}` : "",
    faults.has(i) ? `fault: ${faults.get(i)}` : "",
    certified && values.bound[i] !== null
      ? `bound ${limit(values.bound[i])} as delivered, by ${text(values.by[i])}`
      : "",
    certified && values.above[i] !== null ? `${bits(values.above[i])} bits above amax` : "",
    standing(i),
  ];
  const lines = facts.filter(Boolean).map((fact) => make("div", {}, fact));
  return make("div", { className: "tip" }, make("b", {}, names[i]), ...lines);
}

/** The end of the module's name at a place. */
function placeLabel(place) {
  const i = state.shown[place];
  if (i === undefined) return "";
  const parts = (text(values.module[i]) || text(values.op[i]) || names[i]).split(".");
  while (parts.length > 1 && parts.join(".").length > 20) parts.shift();
  return parts.join(".").slice(0, 20);
}

function mapOption() {
  const count = state.shown.length;
  const words = { color: colours.quiet, fontFamily: "system-ui, sans-serif" };
  const zoomed = { xAxisIndex: 0, filterMode: "none", minValueSpan: Math.min(8, count) };
  return {
    animation: false,
    grid: { left: 52, right: narrow() ? 12 : MARGIN, top: TOP + 8, bottom: count > 8 ? 66 : 34 },
    tooltip: {
      trigger: "axis",
      confine: true,
      backgroundColor: colours.panel,
      borderColor: colours.line,
      textStyle: { color: colours.ink, fontSize: 12 },
      axisPointer: { type: "line", lineStyle: { color: colours.ink } },
      formatter: (found) => describe(found[0].dataIndex),
    },
    xAxis: {
      type: "value",
      min: -0.5,
      max: Math.max(count, 1) - 0.5,
      minInterval: 1,
      splitLine: { show: false },
      axisLine: { onZero: false, lineStyle: { color: colours.line } },
      axisTick: { show: false },
      axisPointer: { label: { show: false } },
      axisLabel: {
        ...words,
        hideOverlap: true,
        showMinLabel: false,
        showMaxLabel: false,
        formatter: placeLabel,
      },
    },
    yAxis: {
      type: "value",
      min: axis.low,
      max: axis.high,
      interval: axis.step,
      axisLine: { show: false },
      axisTick: { show: false },
      axisLabel: { ...words, formatter: power },
      splitLine: { lineStyle: { color: colours.line } },
    },
    dataZoom: [
      { type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, ...zoomed },
      {
        type: "slider",
        show: count > 8,
        height: 18,
        bottom: 10,
        showDetail: false,
        showDataShadow: false,
        brushSelect: false,
        borderColor: colours.line,
        fillerColor: colours.band,
        handleStyle: { color: colours.panel, borderColor: colours.accent },
        moveHandleStyle: { color: colours.accent },
        emphasis: { moveHandleStyle: { color: colours.accent } },
        ...zoomed,
      },
    ],
    series: [
      {
        type: "custom",
        renderItem: paintMap,
        data: state.shown.map((_, place) => [place, axis.low]),
        encode: { x: 0, y: 1 },
      },
    ],
  };
}

function showMap() {
  state.shown = names
    .map((_, i) => i)
    .filter((i) => state.constants || !isConstant(i) || faults.has(i));
  const zoom = map.getOption()?.dataZoom?.[0];
  map.setOption(mapOption(), { notMerge: true });
  if (zoom) map.dispatchAction({ type: "dataZoom", start: zoom.start, end: zoom.end });
  host.dataset.view = state.after ? "after" : "before";
}

map.getZr().on("click", ({ offsetX, offsetY }) => {
  const at = [offsetX, offsetY];
  if (!map.containPixel("grid", at)) return;
  const place = Math.round(map.convertFromPixel({ gridIndex: 0 }, at)[0]);
  if (place in state.shown) select(state.shown[place]);
});

host.addEventListener("keydown", (event) => {
  const here = state.shown.indexOf(state.selected);
  const end = state.shown.length - 1;
  const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: end }[event.key];
  if (there === undefined) return;
  event.preventDefault();
  if (total) select(state.shown[Math.max(0, Math.min(end, there))]);
});

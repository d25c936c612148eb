"use strict";
// Draws the charts of a report with Plotly, and keeps a live page up to date.

const RUN_COLORS = 8;
const TOUCH = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page
const form = document.getElementById("controls");
let data = JSON.parse(document.getElementById("data").textContent);

// Each chart: where it is, and the curves that it draws.
const CHARTS = [
  { id: "loss", legend: true, log: true, curves: [
    { part: "training", name: "train_loss", label: "training", smooth: true },
    { part: "validation", name: "val_loss", label: "validation" },
  ] },
  { id: "bits", log: true, curves: [
    { part: "validation", name: "val_bits_per_byte", label: "bits per byte" } ] },
  { id: "rate", curves: [
    { part: "training", name: "learning_rate", label: "learning rate" } ] },
  { id: "norm", log: true, curves: [
    { part: "training", name: "grad_norm", label: "gradient norm", smooth: true } ] },
  { id: "speed", zero: true, curves: [
    { part: "training", name: "tokens_per_second", label: "tokens per second", smooth: true } ] },
];

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Exponential moving average without the bias of its first values; a gap stays a gap.
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

function lastX(run, x) {
  return Math.max(0, ...[...run.training[x], ...run.validation[x]].filter((value) => value !== null));
}

function traces(chart, settings) {
  const many = data.runs.length > 1;
  return data.runs.flatMap((run, number) => chart.curves.flatMap((curve, part) => {
    const columns = run[curve.part];
    const first = settings.skip * lastX(run, settings.x);
    const kept = columns[settings.x].map((x, i) => i)
      .filter((i) => columns[settings.x][i] !== null && columns[settings.x][i] >= first);
    const x = kept.map((i) => columns[settings.x][i]);
    const y = kept.map((i) => columns[curve.name][i]);
    const shade = color(`--run-${(many ? number : part) % RUN_COLORS}`);
    const label = !chart.legend ? run.name : many ? `${run.name}, ${curve.label}` : curve.label;
    const own = { x, y, name: label, legendgroup: label, mode: "lines", showlegend: Boolean(chart.legend),
      line: { color: shade, width: 2 }, hovertemplate: `%{y:.4~g}<extra>${escapeText(label)}</extra>` };
    if (curve.part === "validation") {
      own.mode = "lines+markers";
      own.line.dash = many ? "dot" : "solid";
      own.marker = { size: 5, color: shade };
      return [own, ...finalPoint(run, curve, own, settings)];
    }
    if (!curve.smooth || settings.smoothing === 0) return [own];
    const raw = { ...own, opacity: 0.3, line: { color: shade, width: 1 }, showlegend: false, hoverinfo: "skip",
      hovertemplate: undefined };
    return [raw, { ...own, y: smoothed(y, settings.smoothing) }];
  }));
}

// The evaluation at the end: of the best checkpoint, on more tokens than those before, so not a part of the curve.
function finalPoint(run, curve, own, settings) {
  if (!run.final) return [];
  const label = `${own.name}, best checkpoint on ${run.final.val_tokens.toLocaleString("en")} tokens`;
  return [{ ...own, x: [run.final[settings.x]], y: [run.final[curve.name]], mode: "markers", showlegend: false,
    marker: { ...own.marker, symbol: "star", size: 12 },
    hovertemplate: `%{y:.4~g}<extra>${escapeText(label)}</extra>` }];
}

// Plotly reads a few HTML tags in labels.
function escapeText(text) {
  return text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
}

function layout(chart, place, settings) {
  const axis = { gridcolor: color("--line"), linecolor: color("--line"), zeroline: false, automargin: true };
  const names = { step: "step", tokens: "tokens", seconds: "seconds" };
  return {
    width: place.clientWidth, height: place.clientHeight,
    font: { family: getComputedStyle(document.body).fontFamily, color: color("--text"), size: 12 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 10, r: 10, t: 10, b: 10 }, hovermode: "x unified",
    hoverlabel: { bgcolor: color("--surface"), font: { color: color("--text") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    dragmode: TOUCH ? false : "zoom",
    uirevision: JSON.stringify(settings),
    xaxis: { ...axis, title: { text: names[settings.x], standoff: 5 }, type: settings.logx ? "log" : "linear" },
    yaxis: { ...axis, type: settings.logy && chart.log ? "log" : "linear",
      rangemode: chart.zero ? "tozero" : "normal", exponentformat: "power" },
  };
}

function settings() {
  const values = {
    x: form.x.value, smoothing: Number(form.smoothing.value), skip: Number(form.skip.value) / 100,
    logx: form.logx.checked, logy: form.logy.checked,
  };
  form.smoothed.value = values.smoothing;
  form.skipped.value = `${form.skip.value} %`;
  return values;
}

function draw() {
  const chosen = settings();
  const options = { displaylogo: false, displayModeBar: TOUCH ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  for (const chart of CHARTS) {
    const place = document.getElementById(chart.id);
    Plotly.react(place, traces(chart, chosen), layout(chart, place, chosen), options);
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${place.previousElementSibling.textContent}: see the tables below.`);
  }
  for (const key of document.querySelectorAll(".key")) {
    key.style.background = `var(--run-${key.dataset.run % RUN_COLORS})`;
  }
}

// On paper the charts are light and as wide as a page, and nothing is folded.
function forPrint(begins) {
  document.documentElement.classList.toggle("printing", begins);
  for (const details of document.querySelectorAll(begins ? "details:not([open])" : "details[data-folded]")) {
    details.open = begins;
    details.toggleAttribute("data-folded", begins);
  }
  draw();
}

// The script of the plotting library is compressed in a page that is a file.
async function loadPlotly() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// Replace the parts that changed; what the reader has unfolded stays unfolded.
function update(page) {
  for (const part of document.querySelectorAll("[data-part]")) {
    const newer = page.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!newer) continue;
    for (const details of part.querySelectorAll("details[open]")) {
      newer.querySelector(`#${details.id}`)?.setAttribute("open", "");
    }
    if (newer.outerHTML !== part.outerHTML) part.replaceWith(newer);
  }
  data = JSON.parse(page.getElementById("data").textContent);
  draw();
}

async function poll(seen) {
  let pause = 2000;
  try {
    const answer = await fetch("/", { cache: "no-cache" });
    const version = answer.headers.get("ETag");
    if (version !== seen) update(new DOMParser().parseFromString(await answer.text(), "text/html"));
    seen = version;
  } catch {
    document.getElementById("live").textContent = "The program that served this page has ended.";
    pause = 10000;
  }
  setTimeout(poll, pause, seen);
}

loadPlotly().then(() => {
  draw();
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("resize", draw);
  addEventListener("beforeprint", () => forPrint(true));
  addEventListener("afterprint", () => forPrint(false));
  document.body.dataset.ready = "yes";
  if ("live" in document.body.dataset) poll(null);
});

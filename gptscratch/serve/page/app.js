// The page: a prompt, its continuations by one or more models, and the options of sampling.

import { complete, listModels, useKey } from "/api.js";
import { element } from "/element.js";
import { Sample, describe } from "/sample.js";
import { clearToken, showToken } from "/token.js";

const LEGENDS = { surprise: "0 to 12 bits", copied: "1 to 24 tokens in a row" };
const SLIDERS = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"];
const NEUTRAL = { top_k: "0", top_p: "1", min_p: "0", repetition_penalty: "1" }; // not sent
const ALTERNATIVES = 12;

const $ = (id) => document.getElementById(id);
let models = [];
let samples = [];
let abort = new AbortController();

function chosenModels() {
  const names = [...document.querySelectorAll("#models input:checked")].map((box) => box.value);
  return models.filter((model) => names.includes(model.id));
}

// The options of a request. What has no effect is left out.
function options() {
  const found = { max_tokens: Number($("max_tokens").value), logprobs: ALTERNATIVES };
  for (const name of SLIDERS) {
    if ($(name).value !== NEUTRAL[name]) found[name] = Number($(name).value);
  }
  if ($("stop_string").value) found.stop = $("stop_string").value.replaceAll("\\n", "\n");
  return found;
}

async function generate() {
  const asked = chosenModels();
  if (!asked.length) return problem("Choose a model.");
  const seed = $("seed").value ? Number($("seed").value) : Math.floor(Math.random() * 2 ** 31);
  const n = Number($("n").value);
  const groups = asked.map((model) =>
    Array.from({ length: n }, (_, number) => new Sample(model, number, seed, select)),
  );
  samples = groups.flat();
  for (const sample of samples) {
    sample.color = $("color").value;
    sample.more.addEventListener("click", () => work(() => continueFrom(sample, sample.tokens.length, null)));
  }
  clearToken();
  $("samples").replaceChildren(...samples.map((sample) => sample.card));
  const body = { ...options(), prompt: $("prompt").value, n, seed, echo: true };
  await work(() => Promise.all(groups.map((group) => fill(group, body))));
}

// One request for all samples of a model.
async function fill(group, body) {
  for (const sample of group) sample.begin();
  const onChunk = ({ choices: [choice], warnings }) => {
    group[choice.index].add(choice.prompt_tokens, true);
    group[choice.index].add(choice.tokens);
    for (const each of warnings ? group : []) show(each.warning, warnings.join(" "));
  };
  try {
    await complete({ ...body, model: group[0].model.id }, onChunk, abort.signal);
  } finally {
    await Promise.all(group.map((sample) => sample.end()));
  }
}

async function continueFrom(sample, end, chosen) {
  clearToken();
  await sample.branch(end, chosen, options(), abort.signal);
}

function select(sample, place) {
  showToken(sample, place, (at, chosen) => work(() => continueFrom(sample, at, chosen)));
}

// Runs a job that Stop can end, and shows what goes wrong.
async function work(job) {
  abort.abort();
  abort = new AbortController();
  const { signal } = abort;
  $("stop").disabled = false;
  problem("");
  try {
    await job();
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message, error.status);
  }
  if (signal === abort.signal) $("stop").disabled = true;
}

function problem(message, status) {
  show($("problem"), message);
  if (status === 401) $("login").showModal();
}

function show(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

function showColor() {
  const color = $("color").value;
  $("legend").className = color;
  $("legend").lastElementChild.textContent = LEGENDS[color] ?? "";
  $("legend").hidden = color === "none";
  for (const sample of samples) sample.paint(color);
}

function showSlider(name) {
  const value = $(name).value;
  const off = name !== "temperature" && value === NEUTRAL[name];
  const shown = name === "temperature" && value === "0" ? "0 (most likely token)" : value;
  document.querySelector(`label[for="${name}"] output`).textContent = off ? "off" : shown;
}

async function start() {
  try {
    models = await listModels();
  } catch (error) {
    return problem(error.message, error.status);
  }
  problem("");
  $("models").querySelectorAll("label").forEach((label) => label.remove());
  models.forEach((model, place) => {
    const label = element("label");
    const box = element("input", { type: "checkbox", value: model.id });
    box.checked = place < 2;
    label.append(box, model.id);
    label.title = describe(model);
    $("models").append(label);
  });
  $("models").hidden = models.length < 2;
  $("facts").textContent = models.map((model) => `${model.id}: ${describe(model)}`).join("; ");
  document.title = `${models.map((model) => model.id).join(", ")} · gptscratch`;
}

$("go").addEventListener("click", generate);
$("stop").addEventListener("click", () => abort.abort());
$("color").addEventListener("change", showColor);
$("login").addEventListener("close", () => { useKey($("key").value); start(); });
for (const name of SLIDERS) {
  $(name).addEventListener("input", () => showSlider(name));
  showSlider(name);
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  if (event.key === "Escape") abort.abort();
});
if (matchMedia("(max-width: 56rem)").matches) $("controls").open = false;
showColor();
await start();
$("prompt").focus();

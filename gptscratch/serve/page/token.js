// The panel of the selected token: how likely it was, and what else could have come.

import { element } from "/element.js";

const panel = document.getElementById("token");
const hint = [...panel.childNodes];
let selected = null;

export function clearToken() {
  selected?.setAttribute("aria-pressed", "false");
  selected = null;
  document.body.classList.remove("token-open");
  panel.replaceChildren(...hint);
}

// onChoose(place, token or null): continue before this place, with the token or with any.
export function showToken(sample, place, onChoose) {
  const token = sample.tokens[place];
  clearToken();
  selected = token.span;
  selected.setAttribute("aria-pressed", "true");
  document.body.classList.add("token-open");
  const close = element("button", { class: "close", "aria-label": "Close" }, "×");
  close.addEventListener("click", leave);
  const title = element("h2", {}, "Token ");
  title.append(element("code", {}, visible(token.token)));
  const facts = element("dl");
  if (token.logprob !== null) {
    const rank = token.best.findIndex((each) => each.id === token.id);
    fact(facts, "probability", percent(token.logprob));
    fact(facts, "surprise", `${(-token.logprob / Math.LN2).toFixed(1)} bits`);
    fact(facts, "rank", rank < 0 ? `after the ${token.best.length} most likely` : `${rank + 1}`);
  } else {
    fact(facts, "probability", "none: the text begins here, or the model does not read this far back");
  }
  fact(facts, "id", `${token.id}`);
  if (sample.copied && sample.color === "copied") fact(facts, "copied span", `${sample.copied.lengths[place]} tokens`);
  const list = element("ol");
  for (const each of token.best) list.append(alternative(token, each, () => onChoose(place, each)));
  const again = element("button", {}, "Generate again from here");
  again.addEventListener("click", () => onChoose(place, null));
  panel.replaceChildren(close, title, facts);
  if (token.best.length) {
    panel.append(element("p", { class: "words" }, "Choose another token to continue from there:"), list);
  }
  if (place > 0) panel.append(again);
  panel.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // it would stop the generation
    leave();
  };
  panel.querySelector("li button")?.focus({ preventScroll: true });
  selected.scrollIntoView({ block: "nearest" }); // on a phone the panel covers the lower half
}

function leave() {
  const span = selected;
  clearToken();
  span?.focus();
}

function alternative(token, each, onClick) {
  const item = element("li");
  const button = element("button");
  const bar = element("span", { class: "bar" });
  bar.style.width = `${100 * Math.exp(each.logprob)}%`;
  button.append(bar, element("code", {}, visible(each.token)), element("span", {}, percent(each.logprob)));
  if (each.id === token.id) button.setAttribute("aria-current", "true");
  button.addEventListener("click", onClick);
  item.append(button);
  return item;
}

function fact(list, name, value) {
  list.append(element("dt", {}, name), element("dd", {}, value));
}

function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toPrecision(1)} %`;
}

function visible(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
}

// A card: one text of one model, as tokens that can be selected.

import { complete, copiedSpans } from "/api.js";
import { element } from "/element.js";

export function describe({ parameters, context_length, vocab_size, tokenizer, checkpoint }) {
  const size = parameters < 1e6 ? `${Math.round(parameters / 1e3)} k` : `${(parameters / 1e6).toFixed(1)} M`;
  const step = checkpoint ? `, step ${Number(checkpoint.replace("step-", ""))}` : "";
  return `${size} parameters, ${tokenizer} vocabulary of ${vocab_size}, context ${context_length}${step}`;
}

const MOST_BITS = 12; // of surprise, shown as the strongest color
const MOST_COPIED = 24; // tokens in a row

export class Sample {
  constructor(model, number, seed, onSelect) {
    this.model = model;
    this.number = number;
    this.seed = seed;
    this.onSelect = onSelect;
    this.tokens = []; // {id, token, text, logprob, best, given, span}
    this.history = []; // what the text was before each choice
    this.color = "none";
    this.copied = null;
    this.text = element("div", { class: "text", role: "group", "aria-label": `Text of ${model.id}` });
    this.speed = element("span", { class: "speed" });
    this.note = element("p", { class: "note", hidden: "" });
    this.warning = element("p", { class: "note", hidden: "" });
    this.more = element("button", {}, "Continue");
    this.undo = element("button", { disabled: "" }, "Undo");
    this.copy = element("button", {}, "Copy");
    const sample = number ? ` · sample ${number + 1}` : "";
    const title = element("div", { class: "title" });
    title.append(element("strong", { title: describe(model) }, model.id), `seed ${seed}${sample}`, this.speed);
    const actions = element("div", { class: "actions" });
    actions.append(this.more, this.undo, this.copy);
    this.card = element("article", { class: "sample", "aria-label": `Sample of ${model.id}` });
    this.card.append(title, this.text, this.warning, this.note, actions);
    this.undo.addEventListener("click", () => this.restore());
    this.copy.addEventListener("click", () => navigator.clipboard?.writeText(this.plainText()));
    this.text.addEventListener("click", (event) => this.clicked(event.target));
    this.text.addEventListener("keydown", (event) => this.moved(event));
  }

  plainText() {
    return this.tokens.map((token) => token.text).join("");
  }

  ids(end = this.tokens.length) {
    return this.tokens.slice(0, end).map((token) => token.id);
  }

  begin() {
    this.started = performance.now();
    this.generated = 0;
    this.card.classList.add("running");
    this.more.disabled = true;
  }

  end() {
    this.card.classList.remove("running");
    this.more.disabled = false;
    const unread = this.tokens.length - this.model.context_length;
    this.tokens.forEach(({ span }, place) => {
      span.classList.toggle("first-read", place === unread);
      span.title = place < unread ? "The model does not read this far back any more." : "";
    });
    this.undo.disabled = !this.history.length;
    return this.paint(this.color);
  }

  // Tokens that the server sent; the prompt's come first and have echo set.
  add(tokens, given = false) {
    for (const token of tokens) {
      const first = token.text && !this.text.querySelector("[tabindex='0']");
      const span = element("span", { role: "button", tabindex: first ? "0" : "-1" }, token.text);
      span.setAttribute("aria-pressed", "false");
      if (token.text.includes("\n")) span.classList.add("line-end");
      if (!token.text) span.hidden = true;
      if (given) span.classList.add("given");
      this.tokens.push({ ...token, given, span });
      this.text.append(span);
      if (this.color === "surprise") this.paintToken(this.tokens.at(-1));
    }
    if (!given) this.generated += tokens.length;
    const seconds = (performance.now() - this.started) / 1000;
    if (this.generated > 1) this.speed.textContent = `${Math.round(this.generated / seconds)} tokens/s`;
  }

  // Continue after tokens[0..end), with another token there if one was chosen.
  async branch(end, chosen, options, signal) {
    const before = this.tokens;
    this.history.push(before);
    this.show(before.slice(0, end));
    this.begin();
    const body = { ...options, model: this.model.id, n: 1, seed: this.seed, echo: chosen !== null };
    if (end || chosen) body.prompt = [...this.ids(), ...(chosen ? [chosen.id] : [])];
    const onChunk = ({ choices: [choice] }) => {
      if (choice.prompt_tokens.length) this.choose(chosen, before[end].best, choice.prompt_tokens.at(-1).text);
      this.add(choice.tokens);
    };
    try {
      await complete(body, onChunk, signal);
    } finally {
      await this.end();
    }
  }

  // The server knows the text of the token here: it can depend on the tokens before.
  choose(chosen, best, text) {
    this.add([{ ...chosen, best, text }]);
    this.tokens.at(-1).span.classList.add("chosen");
  }

  restore() {
    this.show(this.history.pop());
    this.end();
  }

  show(tokens) {
    this.tokens = tokens;
    this.copied = null;
    this.text.replaceChildren(...tokens.map((token) => token.span));
  }

  async paint(color) {
    this.color = color;
    this.note.hidden = true;
    if (color === "copied" && this.tokens.length) await this.findCopies();
    this.tokens.forEach((token, place) => this.paintToken(token, place));
  }

  paintToken(token, place) {
    let share = 0;
    if (this.color === "surprise" && token.logprob !== null) share = -token.logprob / Math.LN2 / MOST_BITS;
    if (this.color === "copied" && this.copied) share = (this.copied.lengths[place] - 1) / MOST_COPIED;
    const strength = Math.max(0, Math.min(share, 1)) * 0.75;
    token.span.style.background = strength ? `rgba(var(--${this.color}), ${strength.toFixed(3)})` : "";
  }

  async findCopies() {
    this.note.hidden = false;
    try {
      if (!this.copied) {
        this.note.textContent = "Searching the training text ...";
        const given = this.tokens.filter((token) => token.given).length;
        this.copied = await copiedSpans(this.model.id, this.ids(), given);
      }
      const { tokens, text, times } = this.copied.longest;
      const often = times === 1 ? "once" : `${times} times`;
      this.note.textContent = `Longest copied span after the prompt: ${tokens} tokens, ${often} in the training text: “${text}”`;
    } catch (error) {
      this.note.textContent = error.message;
    }
  }

  clicked(target) {
    const place = this.tokens.findIndex((token) => token.span === target);
    if (place >= 0) this.select(place);
  }

  moved(event) {
    const spans = this.tokens.map((token) => token.span).filter((span) => !span.hidden);
    const at = spans.indexOf(event.target);
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: spans.length - 1 };
    if (event.key === "Enter" || event.key === " ") {
      this.clicked(event.target);
    } else if (event.key in places) {
      const next = spans[Math.max(0, Math.min(places[event.key], spans.length - 1))];
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else {
      return;
    }
    event.preventDefault();
  }

  select(place) {
    this.tokens.forEach((token) => (token.span.tabIndex = -1));
    this.tokens[place].span.tabIndex = 0;
    this.onSelect(this, place);
  }
}

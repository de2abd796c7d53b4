// Asking before something is changed, and telling what came of it.
import { html, useEffect, useRef, useState } from "./base.js";
import { plural } from "./format.js";

let show = () => {};
let tell = () => {};

/**
 * Ask; resolves to the form's values, or null where it was called off.
 * fields: [{ name, label, value, type, options, hint }]; word: has to be typed first.
 */
export const confirm = (question) => new Promise((resolve) => show({ ...question, resolve }));

/** Tell what came of something, in a corner, for some seconds. */
export const toast = (text, { level = "ok", href, label } = {}) => tell({ text, level, href, label });

/** Do something that changes the server; tell how it went. Returns whether it went well. */
export async function attempt(work, done) {
  try {
    const value = await work();
    toast(typeof done === "function" ? done(value) : done);
    return true;
  } catch (problem) {
    toast(problem.detail || String(problem), { level: "bad" });
    return false;
  }
}

export const changed = (yes, no) => (answer) => (answer.changed ? yes : no);
export const jobs = (verb) => (answer) => `${plural(Number(answer.count), "job")} ${verb}`;

export function Dialogs() {
  const [asked, setAsked] = useState(null);
  const box = useRef();
  show = setAsked;
  useEffect(() => {
    if (asked && !box.current.open) box.current.showModal();
  }, [asked]);
  if (!asked) return null;
  const end = (values) => {
    box.current.close();
    setAsked(null);
    asked.resolve(values);
  };
  const submit = (event) => {
    event.preventDefault();
    end(Object.fromEntries(new FormData(event.target)));
  };
  return html`<dialog ref=${box} aria-labelledby="dialog-title" onCancel=${(event) => (event.preventDefault(), end(null))}>
    <form method="dialog" onSubmit=${submit}>
      <h2 id="dialog-title">${asked.title}</h2>
      <div class="dialog-text">${asked.text}</div>
      ${(asked.fields ?? []).map((field) => html`<${Field} key=${field.name} ...${field} />`)}
      ${asked.word && html`<${Word} word=${asked.word} />`}
      <div class="dialog-buttons">
        <button type="button" class="button" onClick=${() => end(null)}>Cancel</button>
        <button type="submit" class=${`button ${asked.danger ? "danger" : "primary"}`} autofocus=${!asked.fields && !asked.word}>${asked.verb}</button>
      </div>
    </form>
  </dialog>`;
}

function Field({ name, label, value = "", type = "text", options, hint }) {
  const input = options
    ? html`<select name=${name} id=${`field-${name}`}>${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}</select>`
    : html`<input name=${name} id=${`field-${name}`} type=${type} min=${type === "number" ? 0 : null} value=${value} required autocomplete="off" spellcheck="false" />`;
  return html`<label class="field" for=${`field-${name}`}><span>${label}</span>${input}${hint && html`<small>${hint}</small>`}</label>`;
}

function Word({ word }) {
  const check = (event) => event.target.setCustomValidity(event.target.value === word ? "" : `Type ${word}`);
  const first = useRef();
  useEffect(() => first.current.setCustomValidity(`Type ${word}`), [word]);
  return html`<label class="field" for="field-word"><span>Type <code>${word}</code> to go on</span>
    <input id="field-word" ref=${first} onInput=${check} required autocomplete="off" spellcheck="false" /></label>`;
}

let count = 0;

export function Toasts() {
  const [list, set] = useState([]);
  tell = (one) => {
    const key = (count += 1);
    set((before) => [...before.slice(-3), { ...one, key }]);
    setTimeout(() => set((before) => before.filter((each) => each.key !== key)), one.level === "bad" ? 12_000 : 5_000);
  };
  return html`<div class="toasts" role="status" aria-live="polite">
    ${list.map((one) => html`<div key=${one.key} class=${`toast ${one.level}`}><span>${one.text}</span>${one.href && html`<a href=${one.href}>${one.label}</a>`}</div>`)}
  </div>`;
}

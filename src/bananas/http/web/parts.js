// The parts that pages are made of.
import { html, useEffect, useMemo, useRef, useState } from "./base.js";
import { now } from "./api.js";
import { exact, json, span } from "./format.js";

/** Draw again every second, so that ages grow. */
export function useTick(everyMs = 1000) {
  const [, set] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => set((count) => count + 1), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
}

/** How long ago, or how far ahead, a moment is; the exact time as its title. */
export function Ago({ ms, suffix = true }) {
  if (!ms) return html`<span class="dim">–</span>`;
  const left = ms - now();
  const size = whole(Math.abs(left));
  const text = !size ? "now" : left > 0 ? `${suffix ? "in " : ""}${span(size)}` : `${span(size)}${suffix ? " ago" : ""}`;
  return html`<time datetime=${new Date(ms).toISOString()} title=${exact(ms)}>${text}</time>`;
}

/** Ages are told in whole seconds. */
const whole = (ms) => Math.floor(ms / 1000) * 1000;

/** A duration; with its milliseconds as the title. */
export const Span = ({ ms }) => html`<span title=${ms === null || ms === undefined ? "" : `${ms} ms`}>${span(ms)}</span>`;

export const State = ({ state }) => html`<span class=${`state state-${state}`}><i aria-hidden="true"></i>${state}</span>`;

export function Button({ onClick, kind = "", children, ...rest }) {
  const [busy, setBusy] = useState(false);
  const press = async () => {
    setBusy(true);
    try {
      await onClick();
    } finally {
      setBusy(false);
    }
  };
  return html`<button type="button" class=${`button ${kind}`} disabled=${busy} onClick=${press} ...${rest}>${children}</button>`;
}

/** What went wrong, where it was asked. Data that were there before stay. */
export function ProblemBox({ problem }) {
  if (!problem) return null;
  return html`<div class="problem" role="alert">
    <strong>${title(problem)}</strong><pre>${problem.detail || String(problem)}</pre>
  </div>`;
}

function title(problem) {
  const kind = problem.kind ?? String(problem.type ?? "").replace("urn:bananas:problem:", "");
  const known = { Unreachable: "No connection to the API", BrokerUnavailable: "The Redis or Valkey server does not answer", QueryError: "This search cannot be read" };
  return known[kind] ?? (kind || "It went wrong");
}

export const Empty = ({ title, children }) => html`<div class="empty"><p class="empty-title">${title}</p><p>${children}</p></div>`;

export const Loading = () => html`<p class="loading" role="status">Loading…</p>`;

export function Head({ title, children }) {
  useEffect(() => {
    document.title = `${title} · Bananas`;
  }, [title]);
  return html`<header class="head"><h1>${title}</h1><div class="head-tools">${children}</div></header>`;
}

export const Section = ({ title, aside, children, ...rest }) => html`<section class="card" aria-label=${title} ...${rest}>
  <div class="card-head"><h2>${title}</h2>${aside && html`<span class="dim">${aside}</span>`}</div>${children}
</section>`;

/** A table; `columns` are [title, class] pairs. Wide ones scroll in their own box. */
export const Table = ({ columns, children, label }) => html`<div class="scroll" role="region" aria-label=${label} tabindex="0">
  <table><thead><tr>${columns.map(([text, kind]) => html`<th scope="col" class=${kind ?? ""}>${text}</th>`)}</tr></thead>
  <tbody>${children}</tbody></table>
</div>`;

/** A bar that shows a part of a whole. */
export function Meter({ value, most, label, level = "" }) {
  const part = most ? Math.min(1, value / most) : 0;
  const style = { width: `${(part * 100).toFixed(1)}%` };
  return html`<div class=${`meter ${level}`} role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax=${most || 0} aria-valuenow=${value}>
    <i style=${style}></i></div>`;
}

/** A value that a job has stored, as text; a long one is folded. */
export function Stored({ value, label }) {
  const [whole, setWhole] = useState(false);
  const text = useMemo(() => {
    const line = typeof value === "string" ? value : json(value);
    return typeof value === "string" || line.length < 72 ? line : json(value, 2);
  }, [value]);
  const cut = !whole && text.length > 4000;
  return html`<div class="stored">
    <pre tabindex="0" aria-label=${label}>${cut ? `${text.slice(0, 4000)}…` : text}</pre>
    ${cut && html`<${Button} onClick=${() => setWhole(true)}>Show all ${text.length} characters<//>`}
  </div>`;
}

/** A button that copies a text. */
export function Copy({ text, label }) {
  const [done, setDone] = useState(false);
  const timer = useRef();
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    timer.current = setTimeout(() => setDone(false), 1500);
  };
  if (!navigator.clipboard) return null;
  return html`<button type="button" class="button quiet" aria-label=${label} onClick=${copy}>${done ? "Copied" : "Copy"}</button>`;
}

export const Fact = ({ name, children }) => html`<div class="fact"><dt>${name}</dt><dd>${children}</dd></div>`;

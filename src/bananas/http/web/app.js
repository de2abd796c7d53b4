// The shell: who looks, the pages, the keyboard, and how fresh it all is.
import { html, render, useCallback, useEffect, useState } from "./base.js";
import { get, keepToken, onRefused, token } from "./api.js";
import { Dialogs, Toasts } from "./dialog.js";
import { span } from "./format.js";
import { Help, PAGES, useKeys } from "./keys.js";
import { freshness } from "./live.js";
import { Login } from "./login.js";
import { Empty, Head, Loading, ProblemBox, useTick } from "./parts.js";
import { link, useRoute } from "./router.js";
import { applyTheme, nextTheme, theme } from "./theme.js";
import { CronPage } from "./pages/cron.js";
import { DeadPage } from "./pages/dead.js";
import { ErrorsPage } from "./pages/errors.js";
import { JobPage } from "./pages/job.js";
import { JobsPage } from "./pages/jobs.js";
import { OverviewPage } from "./pages/overview.js";
import { QueuesPage } from "./pages/queues.js";
import { TrailPage } from "./pages/trail.js";
import { WorkersPage } from "./pages/workers.js";

const SHOWN = {
  overview: OverviewPage,
  jobs: JobsPage,
  errors: ErrorsPage,
  queues: QueuesPage,
  workers: WorkersPage,
  cron: CronPage,
  dead: DeadPage,
  trail: TrailPage,
};
const AGAIN_MS = 3000;

function useMe() {
  const [state, set] = useState({});
  const load = useCallback(async () => {
    try {
      const me = await get("/me");
      set({ me: { ...me, can: (route) => me.may.includes(route) } });
    } catch (problem) {
      set((before) => ({ ...before, problem }));
      setTimeout(load, AGAIN_MS);
    }
  }, []);
  useEffect(() => {
    load();
    return onRefused(load);
  }, []);
  const enter = (value) => {
    set({}); // what is shown ends first: it would go on asking, without a token
    keepToken(value);
    load();
  };
  return [state, enter];
}

function App() {
  const [{ me, problem }, enter] = useMe();
  if (!me) return html`<main class="alone">${problem ? html`<${ProblemBox} problem=${problem} />` : html`<${Loading} />`}</main>`;
  if (!me.role) return html`<${Login} onToken=${enter} wrong=${Boolean(token())} />`;
  return html`<${Shell} me=${me} onLeave=${token() ? () => enter("") : null} />`;
}

function Shell({ me, onLeave }) {
  const route = useRoute();
  const [help, setHelp] = useState(false);
  const [open, setOpen] = useState(false);
  const showHelp = useCallback(() => setHelp(true), []);
  useKeys(showHelp);
  useEffect(() => {
    setOpen(false);
    scrollTo(0, 0);
  }, [route.page, route.parts[0], route.params.after, route.params.offset]);
  return html`
    <a class="skip" href="#content" onClick=${(event) => (event.preventDefault(), document.getElementById("content").focus())}>Skip to the content</a>
    <header class=${`side ${open ? "open" : ""}`}>
      <div class="brand">
        <a href=${link("overview")}><span class="logo" aria-hidden="true"></span>Bananas</a>
        <span class="namespace" title="namespace">${me.namespace}</span>
        <button type="button" class="button menu" aria-expanded=${open} aria-controls="nav" onClick=${() => setOpen(!open)}>Menu</button>
      </div>
      <nav id="nav" aria-label="Pages">
        ${PAGES.map(
          ([page, name, key]) => html`<a href=${link(page)} aria-current=${route.page === page ? "page" : null} title=${`g ${key}`}>${name}</a>`,
        )}
      </nav>
      <div class="foot">
        <${Fresh} />
        <span class="dim" title=${`Bananas ${me.version}`}>${me.role}</span>
        <${ThemeButton} />
        <button type="button" class="button quiet" onClick=${showHelp} aria-label="Keys">?</button>
        ${onLeave && html`<button type="button" class="button quiet" onClick=${onLeave}>Sign out</button>`}
      </div>
    </header>
    <main id="content" tabindex="-1"><${Page} route=${route} me=${me} /></main>
    ${help && html`<${Help} onClose=${() => setHelp(false)} />`}
    <${Dialogs} /><${Toasts} />`;
}

function Page({ route, me }) {
  if (route.page === "jobs" && route.parts[0]) return html`<${JobPage} key=${route.parts[0]} id=${route.parts[0]} me=${me} />`;
  const shown = SHOWN[route.page];
  if (shown) return html`<${shown} key=${route.page} params=${route.params} part=${route.parts[0]} me=${me} />`;
  return html`<${Head} title="No such page" /><${Empty} title="There is nothing here.">The menu has all pages.<//>`;
}

function Fresh() {
  useTick();
  const { at, overdue, sources } = freshness();
  if (!sources) return html`<span class="fresh"></span>`;
  const age = Math.floor(Math.max(0, Date.now() - at) / 1000) * 1000;
  const text = !at ? "reading…" : age ? `as of ${span(age)} ago` : "as of now";
  return html`<span class=${`fresh ${overdue ? "old" : ""}`} title="When the oldest figure of this page was read"><i aria-hidden="true"></i>${text}</span>`;
}

function ThemeButton() {
  const [chosen, set] = useState(theme);
  return html`<button type="button" class="button quiet" onClick=${() => set(nextTheme())} aria-label=${`Theme: ${chosen}`} title=${`Theme: ${chosen}`}>
    ${{ system: "◐", light: "☀", dark: "☾" }[chosen]}
  </button>`;
}

applyTheme();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);

// The overview: are workers alive, is anything late, is anything failing, is the server well. Then the figures behind that.
import { html, useMemo, useState } from "../base.js";
import { now } from "../api.js";
import { bytes, number, plural, span } from "../format.js";
import { History, Tasks, useHistory } from "../history.js";
import { usePoll, useQueues } from "../live.js";
import { Ago, Empty, Head, Loading, Meter, ProblemBox, Section } from "../parts.js";
import { Recent } from "../recent.js";
import { link, search } from "../router.js";
import { groupQuery } from "./errors.js";
import { QueueTable } from "./queues.js";

const LATE_MS = 30_000;
const VERY_LATE_MS = 300_000;
const RECENT_MS = 900_000;
const RANK = { ok: 0, warn: 1, bad: 2 };

export function OverviewPage({ me }) {
  const [minutes, setMinutes] = useState("60");
  const { data: queues, problem } = useQueues();
  const { data: stats, problem: noStats } = usePoll("/stats", 5000);
  const { data: workers } = usePoll("/workers", 5000);
  const errors = useErrors();
  const { data: advice } = usePoll(me.can("GET /advice") ? "/advice" : "", 30_000);
  const history = useHistory(me, minutes);
  return html`<${Head} title="Overview" />
    <${ProblemBox} problem=${problem ?? noStats} />
    <div class="verdicts">
      <${Workers} workers=${workers} queues=${queues} />
      <${Late} queues=${queues} />
      <${Failing} queues=${queues} errors=${errors} />
      <${Server} stats=${stats} problem=${noStats} />
    </div>
    <${Advice} advice=${advice} />
    <${History} history=${history} minutes=${minutes} onMinutes=${setMinutes} />
    <div class="two">
      <${Section} title="Queues" aside=${queues && plural(queues.length, "queue")}>
        ${queues ? (queues.length ? html`<${QueueTable} queues=${busiest(queues)} brief />` : html`<${NoQueues} />`) : html`<${Loading} />`}
      <//>
      <${TopErrors} errors=${errors} />
    </div>
    <${Tasks} history=${history} />
    <${Recent} me=${me} />`;
}

/** The groups among the newest dead jobs and those that are retried; each looked at apart, so that many of one do not hide the other. */
function useErrors() {
  const { data: dead } = usePoll("/errors?q=state:dead&scan_limit=1000", 5000);
  const { data: retrying } = usePoll("/errors?q=state:retrying&scan_limit=1000", 5000);
  return useMemo(() => {
    if (!dead || !retrying) return undefined;
    const groups = new Map();
    for (const group of [...dead.groups, ...retrying.groups]) {
      const key = `${group.type}\n${group.frame}`;
      const known = groups.get(key);
      const [newer, older] = known && known.last_ms > group.last_ms ? [known, group] : [group, known];
      groups.set(key, { ...newer, dead: group.dead + (known?.dead ?? 0), retrying: group.retrying + (known?.retrying ?? 0), tasks: [...new Set([...newer.tasks, ...(older?.tasks ?? [])])] });
    }
    const sorted = [...groups.values()].sort((a, b) => b.dead + b.retrying - a.dead - a.retrying);
    return { groups: sorted, scanned: dead.scanned + retrying.scanned, total: dead.total + retrying.total };
  }, [dead, retrying]);
}

const busiest = (queues) => [...queues].sort((a, b) => b.ready + b.running - a.ready - a.running || a.name.localeCompare(b.name)).slice(0, 12);
const total = (queues, name) => queues.reduce((sum, queue) => sum + queue[name], 0);
const NoQueues = () => html`<${Empty} title="No queue yet.">A queue begins with its first job.<//>`;

function Verdict({ title, level, figure, text, href, children }) {
  const words = { ok: "ok", warn: "check", bad: "act" };
  return html`<a class=${`verdict ${level ?? "unknown"}`} href=${href}>
    <span class="verdict-title">${title}<span class="verdict-word">${words[level] ?? "…"}</span></span>
    <span class="verdict-figure">${figure ?? "…"}</span>
    <span class="verdict-text">${text}</span>${children}
  </a>`;
}

function Workers({ workers, queues }) {
  const href = link("workers");
  if (!workers || !queues) return html`<${Verdict} title="Workers" href=${href} />`;
  const slots = total(workers, "slots");
  const running = workers.reduce((sum, worker) => sum + worker.running.length, 0);
  const overdue = workers.reduce((sum, worker) => sum + worker.overdue.length, 0);
  const alone = queues.filter((queue) => queue.ready && !queue.workers && !queue.paused).map((queue) => queue.name);
  let [level, text] = ["ok", `${running} of ${plural(slots, "slot")} busy`];
  if (overdue) [level, text] = ["warn", `${plural(overdue, "job")} beyond the timeout`];
  if (!workers.length) [level, text] = [total(queues, "ready") ? "bad" : "warn", "None is alive."];
  else if (alone.length) [level, text] = ["bad", `Nobody serves ${alone.slice(0, 3).join(", ")}${alone.length > 3 ? " …" : ""}`];
  return html`<${Verdict} title="Workers" level=${level} figure=${`${number(workers.length)} alive`} text=${text} href=${href} />`;
}

function Late({ queues }) {
  const href = link("queues");
  if (!queues) return html`<${Verdict} title="Waiting" href=${href} />`;
  const open = queues.filter((queue) => queue.oldest_ms !== null && !queue.paused);
  const worst = open.sort((a, b) => b.oldest_ms - a.oldest_ms)[0];
  const paused = queues.filter((queue) => queue.paused && queue.ready);
  const age = worst?.oldest_ms ?? 0;
  let level = age > VERY_LATE_MS ? "bad" : age > LATE_MS ? "warn" : "ok";
  if (paused.length && RANK[level] < RANK.warn) level = "warn";
  const parts = [worst && `oldest ${span(age)}, in ${worst.name}`, paused.length && `${plural(total(paused, "ready"), "job")} in paused queues`];
  const text = parts.filter(Boolean).join(" · ") || "Nothing waits.";
  return html`<${Verdict} title="Waiting" level=${level} figure=${number(total(queues, "ready"))} text=${text} href=${href} />`;
}

function Failing({ queues, errors }) {
  const href = link("errors");
  if (!queues || !errors) return html`<${Verdict} title="Failures" href=${href} />`;
  const dead = total(queues, "dead");
  const last = Math.max(0, ...errors.groups.map((group) => group.last_ms));
  const recent = last && now() - last < RECENT_MS;
  const retrying = errors.groups.reduce((sum, group) => sum + group.retrying, 0);
  const level = recent ? (dead ? "bad" : "warn") : dead ? "warn" : "ok";
  const none = dead ? "…" : "No job is dead or retrying.";
  const text = last ? html`last failure <${Ago} ms=${last} />${retrying ? ` · ${number(retrying)}${errors.scanned < errors.total ? "+" : ""} retrying` : ""}` : none;
  return html`<${Verdict} title="Failures" level=${level} figure=${`${number(dead)} dead`} text=${text} href=${href} />`;
}

function Server({ stats, problem }) {
  const href = link("overview");
  if (!stats) return html`<${Verdict} title="Server" href=${href} level=${problem ? "bad" : undefined} text=${problem && "It does not answer."} />`;
  const all = (stats.servers ?? [stats.server]).map((server) => ({ server, judged: judged(server, problem) }));
  const worst = all.sort((a, b) => RANK[b.judged[0]] - RANK[a.judged[0]])[0];
  const [{ server }, [level, text]] = [worst, worst.judged];
  const memory = server.maxmemory ? `${bytes(server.used_memory)} of ${bytes(server.maxmemory)}` : bytes(server.used_memory);
  return html`<${Verdict} title=${all.length > 1 ? `Servers: the worst of ${all.length}` : "Server"} level=${level} figure=${memory} text=${text || facts(server)} href=${href}>
    ${server.maxmemory ? html`<${Meter} value=${server.used_memory} most=${server.maxmemory} label="Memory used" level=${level} />` : null}
    ${text && html`<span class="verdict-text">${facts(server)}</span>`}
  <//>`;
}

/** What a server is, in a line; what this API does not tell is left out. */
function facts(server) {
  const lag = server.replica_lag_s > 1 ? ` (${server.replica_lag_s} s behind)` : "";
  return [
    `${server.kind ?? ""} ${server.version}`.trim(),
    server.mode && server.mode !== "standalone" && server.mode,
    server.maxmemory_policy,
    server.aof_enabled ? "AOF" : "no AOF",
    server.replicas !== undefined && `${plural(server.replicas, "replica")}${lag}`,
    server.round_trip_ms !== undefined && `${server.round_trip_ms.toFixed(1)} ms away`,
  ].filter(Boolean).join(" · ");
}

function judged(server, problem) {
  if (problem) return ["bad", "It does not answer."];
  if (server.read_only) return ["bad", "It is read-only: nothing can be submitted or settled."];
  const part = server.maxmemory ? server.used_memory / server.maxmemory : 0;
  if (server.full || part >= 1) return ["bad", "It is full: new jobs are refused, waiting ones still run."];
  if (server.saves === false) return ["bad", "It could not write to its disk: it may refuse writes."];
  if (server.evicted_keys) return ["bad", `It has evicted ${plural(server.evicted_keys, "key")}: set maxmemory-policy noeviction.`];
  if (server.maxmemory && server.maxmemory_policy !== "noeviction") return ["bad", `The policy ${server.maxmemory_policy} may drop jobs.`];
  if (part > 0.85) return ["warn", "Its memory is almost used up."];
  if (!server.aof_enabled) return ["warn", "Without AOF a crash of it loses recent jobs."];
  return ["ok", ""];
}

function Advice({ advice }) {
  if (!advice?.length) return null;
  return html`<${Section} title="Advice" aside=${plural(advice.length, "finding")}>
    <ul class="advice">${advice.map(
      (one) => html`<li key=${`${one.kind} ${one.queue} ${one.task}`} class=${one.level}><details>
        <summary><strong>${one.title}</strong><span class="dim clip">${one.why}</span></summary>
        <p>${one.why}</p><p>${one.action}</p></details></li>`,
    )}</ul>
  <//>`;
}

function TopErrors({ errors }) {
  const aside = html`<a href=${link("errors")}>all</a>`;
  const row = (group) => html`<li><a href=${search(groupQuery(group))}>
      <span class="error-type">${group.type}</span><span class="grow clip">${group.message}</span>
      <span class="figure">${number(group.dead + group.retrying)}</span></a>
    <span class="dim clip">${group.tasks.join(", ")} · <${Ago} ms=${group.last_ms} /></span></li>`;
  const some = errors && errors.scanned < errors.total;
  return html`<${Section} title=${some ? "Errors of late" : "Errors"} aside=${aside}>
    ${!errors && html`<${Loading} />`}
    ${errors && !errors.groups.length && html`<${Empty} title="No failures.">Dead and retrying jobs would be here, by what went wrong.<//>`}
    ${errors && html`<ul class="errors-brief">${errors.groups.slice(0, 8).map(row)}</ul>`}
  <//>`;
}

import type { Backend, BackendProvider, ProbeResult } from "./backend.ts";
import { FaError, refuse, show } from "./errors.ts";
import { measuredLadder, measureUpTo, type MeasuredProblem } from "./measure.ts";
import { keyOf, recall, remember, type Choice, type SelectionStore } from "./remembered.ts";

/** How one of the candidates is taken. */
export interface Selection {
  /** `"preference"` (default) takes the first whose probe passes; `"measured"` the fastest on `problem`. */
  readonly select?: "preference" | "measured" | undefined;
  /** What `"measured"` times. Default: B=1, H=4, S=256, D=64, float32, not causal. */
  readonly problem?: MeasuredProblem | undefined;
  /**
   * Where `"measured"` keeps what it found, beside the process's own memory: `localStorage`, say. Keyed by candidates, devices,
   * drivers, versions and the class of the problem: change one and it is measured anew. Default: memory alone.
   */
  readonly store?: SelectionStore | undefined;
}

/** What became of one candidate. */
export interface CandidateReport {
  readonly name: string;
  /** True for the one that was taken, and for others that were measured and work. */
  readonly ok: boolean;
  readonly taken: boolean;
  /** Why it was or was not taken. */
  readonly reason: string;
  readonly device?: string | undefined;
  /** Milliseconds on the problem, when measured, now or in a run before; by a part of it where the whole would take long. */
  readonly ms?: number | undefined;
}

/**
 * Opens one of the providers.
 * @throws FaError FA_OPTION for a malformed list, FA_UNAVAILABLE with every candidate's reason if none opens
 */
export async function open(
  providers: readonly BackendProvider[],
  { select = "preference", problem, store }: Selection,
): Promise<Opened> {
  checkProviders(providers);
  if (select !== "preference" && select !== "measured") {
    refuse("FA_OPTION", {
      where: "createAttention(select)",
      rule: `select must be "preference" or "measured"`,
      got: show(select),
      fix: "Leave it out for the first that works.",
    });
  }
  for (const [name, given] of Object.entries({ problem, store })) {
    if (given === undefined || select === "measured") continue;
    refuse("FA_OPTION", {
      where: `createAttention(${name})`,
      rule: `${name} goes with select: "measured"`,
      got: `select ${show(select)}`,
      fix: `Pass select: "measured".`,
    });
  }
  if (store !== undefined && (typeof store?.getItem !== "function" || typeof store.setItem !== "function")) {
    refuse("FA_OPTION", {
      where: "createAttention(store)",
      rule: "store must have getItem(key) and setItem(key, value)",
      got: show(store),
      fix: "Pass localStorage or an object with those two methods.",
    });
  }
  return select === "preference" ? openFirst(providers) : openFastest(providers, problem, store);
}

interface Opened {
  readonly backend: Backend;
  readonly report: CandidateReport[];
}

async function openFirst(providers: readonly BackendProvider[]) {
  const report: CandidateReport[] = [];
  let backend: Backend | undefined;
  for (const provider of providers) {
    const { name } = provider;
    if (backend) {
      report.push({ name, ok: false, taken: false, reason: `not tried: ${backend.name} comes before it and works` });
      continue;
    }
    const tried = await tryOpen(provider, await probe(provider));
    backend = tried.backend;
    const reason = backend ? (tried.reason ?? "the first that works") : tried.reason!;
    report.push({ name, ok: backend !== undefined, taken: backend !== undefined, reason, device: tried.device });
  }
  if (!backend) throw unavailable(report);
  return { backend, report };
}

async function openFastest(
  providers: readonly BackendProvider[],
  measured: MeasuredProblem | undefined,
  store: SelectionStore | undefined,
): Promise<Opened> {
  const ladder = measuredLadder(measured);
  const probes: ProbeResult[] = [];
  for (const provider of providers) probes.push(await probe(provider));
  const identities = providers.map(({ name }, n) => identityOf(name, probes[n]));
  const memorable = identities.every((identity) => identity !== undefined);
  const key = memorable ? keyOf(identities, ladder.at(-1)!) : undefined;

  const choice = key === undefined ? undefined : await recall(key, store);
  const reopened = choice && (await openChosen(providers, probes, choice));
  if (reopened) return reopened;

  const report: CandidateReport[] = [];
  let best: { backend: Backend; entry: number } | undefined;
  const expected: Float32Array[] = [];
  for (const [n, provider] of providers.entries()) {
    const { name } = provider;
    const { backend, reason, device } = await tryOpen(provider, probes[n]);
    if (!backend) {
      report.push({ name, ok: false, taken: false, reason: reason!, device });
      continue;
    }
    const timed = await measureUpTo(backend, ladder, expected);
    if (!timed.ok) {
      await backend.dispose();
      report.push({ name, ok: false, taken: false, reason: timed.reason, device });
      continue;
    }
    const { ms } = timed;
    const entry = report.push({ name, ok: true, taken: false, reason: inWords(timed), device, ms }) - 1;
    const [slower, faster] =
      best && report[best.entry].ms! <= ms ? [{ backend, entry }, best] : [best, { backend, entry }];
    await slower?.backend.dispose();
    best = faster;
  }
  if (!best) throw unavailable(report);

  const notKept = key && (await remember(key, { date: new Date().toISOString(), candidates: report }, store));
  const { reason, ...rest } = report[best.entry];
  const remark = notKept ? `; the store did not take it: ${notKept}` : "";
  report[best.entry] = { ...rest, taken: true, reason: `the fastest: ${reason}${remark}` };
  return { backend: best.backend, report };
}

const twoDigits = (n: number): number => Number(n.toPrecision(2));

/** 0.123 ms, or what it would be. */
function inWords({ ms, part }: { readonly ms: number; readonly part?: number | undefined }): string {
  return part === undefined
    ? `${ms.toFixed(3)} ms`
    : `about ${twoDigits(ms)} ms, from ${twoDigits(100 * part)} % of the problem`;
}

/** What a time depends on; undefined if the provider does not tell. */
function identityOf(name: string, { ok, device, identity }: ProbeResult): string | undefined {
  if (!ok) return `${name}: none`;
  return identity === undefined ? undefined : `${name}: ${device ?? ""}, ${identity}`;
}

/** The fastest of a choice made before, if it still opens. */
async function openChosen(
  providers: readonly BackendProvider[],
  probes: readonly ProbeResult[],
  { date, candidates }: Choice,
): Promise<Opened | undefined> {
  const times = candidates.map(({ ms = Infinity }) => ms);
  const fastest = times.indexOf(Math.min(...times));
  if (candidates.length !== providers.length || times[fastest] === Infinity) return undefined;
  const { backend } = await tryOpen(providers[fastest], probes[fastest]);
  if (!backend) return undefined;
  const report = candidates.map(({ name, ms, reason }, n) => ({
    name,
    ok: ms !== undefined,
    taken: n === fastest,
    reason: ms === undefined ? reason : `${n === fastest ? "the fastest: " : ""}${reason}, measured ${date}`,
    device: n === fastest ? backend.device : probes[n].device,
    ms,
  }));
  return { backend, report };
}

interface Tried {
  readonly backend?: Backend | undefined;
  readonly reason?: string | undefined;
  readonly device?: string | undefined;
}

const said = (error: unknown): string => (error instanceof Error ? error.message : String(error));

async function probe(provider: BackendProvider): Promise<ProbeResult> {
  try {
    return await provider.probe();
  } catch (error) {
    return { ok: false, reason: said(error) };
  }
}

async function tryOpen(provider: BackendProvider, { ok, reason, device }: ProbeResult): Promise<Tried> {
  if (!ok) return { reason: reason ?? "its probe failed without a reason", device };
  try {
    const backend = await provider.open();
    return { backend, reason, device: backend.device };
  } catch (error) {
    return { reason: said(error), device };
  }
}

function unavailable(report: readonly CandidateReport[]): FaError {
  const list = report.map(({ name, reason }) => `${name} (${reason})`).join("; ");
  return new FaError(
    "FA_UNAVAILABLE",
    `createAttention(backends): one back end must work here; got none: ${list}. Add reference(), which works everywhere, or mend one of the reasons.`,
  );
}

function checkProviders(providers: unknown): asserts providers is readonly BackendProvider[] {
  if (!Array.isArray(providers) || providers.length === 0) {
    refuse("FA_OPTION", {
      where: "createAttention(backends)",
      rule: "backends must be an array of one or more providers",
      got: show(providers),
      fix: "Pass [wasm(), reference()], or import createAttention from @fa/core/auto.",
    });
  }
  for (const [n, provider] of providers.entries()) {
    const candidate = provider as Partial<BackendProvider> | null | undefined;
    if (
      typeof candidate?.name !== "string" ||
      typeof candidate.probe !== "function" ||
      typeof candidate.open !== "function"
    ) {
      refuse("FA_OPTION", {
        where: `createAttention(backends[${n}])`,
        rule: "each back end must be a provider",
        got: show(provider),
        fix:
          typeof provider === "function"
            ? "Call it: wasm() instead of wasm."
            : "Pass what wasm() or reference() returns.",
      });
    }
  }
}

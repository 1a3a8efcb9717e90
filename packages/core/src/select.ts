import type { Backend, BackendProvider } from "./backend.ts";
import { FaError, refuse, show } from "./errors.ts";
import { measure, measuredProblem, type MeasuredProblem } from "./measure.ts";
import type { AttentionProblem } from "./problem.ts";

/** How one of the candidates is taken. */
export interface Selection {
  /** `"preference"` (default) takes the first whose probe passes; `"measured"` the fastest on `problem`. */
  readonly select?: "preference" | "measured" | undefined;
  /** What `"measured"` times. Default: B=1, H=4, S=256, D=64, float32, not causal. */
  readonly problem?: MeasuredProblem | undefined;
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
  /** Milliseconds on the problem, when measured. */
  readonly ms?: number | undefined;
}

/**
 * Opens one of the providers.
 * @throws FaError FA_OPTION for a malformed list, FA_UNAVAILABLE with every candidate's reason if none opens
 */
export async function open(
  providers: readonly BackendProvider[],
  { select = "preference", problem }: Selection,
): Promise<{ backend: Backend; report: CandidateReport[] }> {
  checkProviders(providers);
  if (select !== "preference" && select !== "measured") {
    refuse("FA_OPTION", {
      where: "createAttention(select)",
      rule: `select must be "preference" or "measured"`,
      got: show(select),
      fix: "Leave it out for the first that works.",
    });
  }
  if (problem !== undefined && select !== "measured") {
    refuse("FA_OPTION", {
      where: "createAttention(problem)",
      rule: `problem goes with select: "measured"`,
      got: `select ${show(select)}`,
      fix: `Pass select: "measured".`,
    });
  }
  return select === "preference" ? openFirst(providers) : openFastest(providers, measuredProblem(problem));
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
    const tried = await tryOpen(provider);
    backend = tried.backend;
    const reason = backend ? (tried.reason ?? "the first that works") : tried.reason!;
    report.push({ name, ok: backend !== undefined, taken: backend !== undefined, reason, device: tried.device });
  }
  if (!backend) throw unavailable(report);
  return { backend, report };
}

async function openFastest(providers: readonly BackendProvider[], problem: AttentionProblem) {
  const report: CandidateReport[] = [];
  let best: { backend: Backend; ms: number; entry: number } | undefined;
  let expected: Float32Array | undefined;
  for (const provider of providers) {
    const { name } = provider;
    const { backend, reason, device } = await tryOpen(provider);
    if (!backend) {
      report.push({ name, ok: false, taken: false, reason: reason! });
      continue;
    }
    const measured = await measure(backend, problem, expected);
    if (!measured.ok) {
      await backend.dispose();
      report.push({ name, ok: false, taken: false, reason: measured.reason, device });
      continue;
    }
    const { ms } = measured;
    expected ??= measured.out;
    const entry = report.push({ name, ok: true, taken: false, reason: `${ms.toFixed(3)} ms`, device, ms }) - 1;
    if (!best || ms < best.ms) {
      await best?.backend.dispose();
      best = { backend, ms, entry };
    } else {
      await backend.dispose();
    }
  }
  if (!best) throw unavailable(report);
  const { backend, ms, entry } = best;
  report[entry] = { ...report[entry], taken: true, reason: `the fastest: ${ms.toFixed(3)} ms` };
  return { backend, report };
}

interface Tried {
  readonly backend?: Backend | undefined;
  readonly reason?: string | undefined;
  readonly device?: string | undefined;
}

async function tryOpen(provider: BackendProvider): Promise<Tried> {
  try {
    const { ok, reason, device } = await provider.probe();
    if (!ok) return { reason: reason ?? "its probe failed without a reason", device };
    const backend = await provider.open();
    return { backend, reason, device: backend.device };
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) };
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

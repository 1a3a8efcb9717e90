/** What every back end makes of one problem: the plan, and why each row of its kernel table does or does not run. */
import {
  describePlan,
  plan,
  type AttentionProblem,
  type Backend,
  type BackendProvider,
  type CandidateReport,
} from "@fa/core";

export interface Explanation {
  /** "attention B=1 H=8 ..." */
  readonly problem: string;
  readonly candidates: readonly CandidateExplained[];
}

export interface CandidateExplained {
  readonly name: string;
  /** Whether calls of the problem would run here, were it alone. */
  readonly runs: boolean;
  readonly taken: boolean;
  /** Why it is or is not taken. */
  readonly reason: string;
  readonly device?: string | undefined;
  /** In milliseconds, where candidates were measured. */
  readonly ms?: number | undefined;
  /** As `describePlan` prints it; left out where nothing runs. */
  readonly plan?: string | undefined;
  /** The kernels of that operation, in the order of the table: the first that takes the problem runs. */
  readonly rows: readonly RowExplained[];
}

export interface RowExplained {
  readonly kernel: string;
  readonly state: "runs" | "would run" | "refuses";
  /** Why it refuses, or which row goes before it. */
  readonly reason?: string | undefined;
}

/**
 * Asks every candidate.
 * @param measured what `select: "measured"` reported of them, in their order; left out, the first that opens is taken
 */
export async function explained(
  problem: AttentionProblem,
  providers: readonly BackendProvider[],
  measured?: readonly CandidateReport[],
): Promise<Explanation> {
  const candidates: CandidateExplained[] = [];
  for (const [n, provider] of providers.entries()) {
    const { name } = provider;
    const before = candidates.find(({ taken }) => taken);
    const { device, refusal, ...found } = await ask(provider, problem);
    if (measured) {
      const { taken, reason, ms } = measured[n];
      candidates.push({ name, device, taken, reason, ms, ...found });
      continue;
    }
    const opens = refusal === undefined;
    const taken = opens && before === undefined;
    const without = found.runs ? "" : ", and refuses the problem";
    const reason =
      refusal ?? (taken ? `the first that works${without}` : `${before!.name} comes before it and works${without}`);
    candidates.push({ name, device, taken, reason, ...found });
  }
  const [title] = describePlan(imagined(problem)).split("\nkernel");
  return { problem: title, candidates };
}

type Found = Pick<CandidateExplained, "runs" | "plan" | "rows" | "device"> & {
  /** Why it does not open. */
  readonly refusal?: string;
};

async function ask(provider: BackendProvider, problem: AttentionProblem): Promise<Found> {
  const nothing = { runs: false, rows: [] };
  try {
    const { ok, reason, device } = await provider.probe();
    if (!ok) return { ...nothing, device, refusal: reason ?? "its probe failed without a reason" };
    const backend = await provider.open();
    try {
      return { device: backend.device, ...planned(problem, backend) };
    } finally {
      await backend.dispose();
    }
  } catch (error) {
    return { ...nothing, refusal: error instanceof Error ? error.message : String(error) };
  }
}

/** Pure: needs a back end's facts and no device. */
export function planned(
  problem: AttentionProblem,
  { capabilities, kernels }: Pick<Backend, "capabilities" | "kernels">,
): Pick<CandidateExplained, "runs" | "plan" | "rows"> {
  const chosen = plan(problem, capabilities, kernels);
  const rows = kernels
    .filter(({ op }) => op === problem.op)
    .map((kernel): RowExplained => {
      const alone = plan(problem, capabilities, [kernel]);
      if (!alone.ok) return { kernel: kernel.id, state: "refuses", reason: alone.reasons[0].reason };
      if (chosen.ok && chosen.kernel === kernel) return { kernel: kernel.id, state: "runs" };
      return { kernel: kernel.id, state: "would run", reason: `comes after ${chosen.ok ? chosen.kernel.id : ""}` };
    });
  return { runs: chosen.ok, plan: chosen.ok ? describePlan(chosen) : undefined, rows };
}

/** A plan of no kernel, whose description begins with the problem. */
function imagined(problem: AttentionProblem): Parameters<typeof describePlan>[0] {
  const tile = { q: 1, kv: 1 };
  const kernel = {
    id: "",
    op: problem.op,
    dtypes: [],
    needs: [],
    tile,
    maxTile: tile,
    workspaceBytes: () => 0,
  };
  return { ok: true, problem, kernel, tile, grid: [1, 1, 1], splits: 1, workspaceBytes: 0 };
}

/** For people: each candidate with its rows, and the plan of the one that is taken. */
export function explanationLines({ problem, candidates }: Explanation): string[] {
  const width = Math.max(...candidates.map(({ name }) => name.length));
  const rowWidth = Math.max(0, ...candidates.flatMap(({ rows }) => rows.map(({ kernel }) => kernel.length)));
  const indent = " ".repeat(width + 2);
  const lines = [problem, ""];
  for (const { name, taken, reason, device, rows } of candidates) {
    lines.push(`${name.padEnd(width)}  ${taken ? "taken" : "not taken"}: ${reason}`);
    if (device !== undefined) lines.push(`${indent}on ${device}`);
    for (const row of rows) {
      const why = row.reason === undefined ? "" : `: ${row.reason}`;
      lines.push(`${indent}${row.kernel.padEnd(rowWidth)}  ${row.state}${why}`);
    }
  }
  const taken = candidates.find((candidate) => candidate.taken);
  const whole = taken?.plan?.split("\n").filter((line) => !problem.includes(line)) ?? [];
  if (whole.length > 0) lines.push("", `plan       of ${taken!.name}`, ...whole);
  return lines;
}

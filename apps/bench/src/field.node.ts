/** Whose contest it is: what a comparison needs to know of a back end. */
import type { AttentionCase } from "./cases.ts";
import type { Contestant, ContestOptions, Gauge, GaugeName, Match, MatchResult } from "./contest.ts";
import type { ContestOf, Entry, GpuFacts, GpuIdentity } from "./results.ts";
import type { TargetOutcome } from "./target.ts";
import type { Terminal } from "./terminal.node.ts";
import type { Truth } from "./truth.ts";

/** Who and what a comparison is made of; the real ones unless a test gives others. */
export interface Arena {
  readonly contestants: readonly Contestant[];
  readonly gauge: Gauge;
  /**
   * Milliseconds from opening ours to the end of its first call of the case, in a process that has just started.
   * @param threads its default unless given
   */
  readonly startUp: (item: AttentionCase, threads?: number) => Promise<number>;
  readonly close: () => Promise<void>;
  /** Of a contest of GPUs. */
  readonly gpu?: GpuArena | undefined;
}

export interface GpuArena {
  facts(): Promise<GpuIdentity>;
  /** Milliseconds that a call keeps the processor busy, one for each sample. */
  callCost(item: AttentionCase): Promise<number[]>;
  /** Begins to compute what must come out of the cases; whoever asks for one waits for all. */
  truths(items: readonly AttentionCase[]): Promise<(item: AttentionCase) => Promise<Truth>>;
}

export interface Field {
  readonly contestOf: ContestOf;
  readonly matches: readonly Match[];
  readonly openArena: () => Arena;
  /** The rate that all others are shares of; settled by `prepare`. */
  readonly roof: { readonly gauge: GaugeName; readonly what: string };
  readonly pace: Pick<ContestOptions, "rounds" | "entryMs" | "warmMs">;
  /** Before the first match: what holds for all of them. */
  prepare?(arena: Arena, terminal: Terminal): Promise<Pick<ContestOptions, "truth">>;
  /** After the last match. */
  conclude(results: readonly MatchResult[], settings: ContestOptions, arena: Arena): Promise<Conclusion>;
}

export interface Conclusion {
  /** Of what is measured outside all matches. */
  readonly entries: readonly Entry[];
  readonly targets: readonly TargetOutcome[];
  readonly gpu?: GpuFacts | undefined;
}

/** What a contest says, as rows of tables, wherever they are shown. */
import type { MatchResult } from "./contest.ts";
import { whyNotMeasured } from "./columns.ts";
import { gflopsOf, isMeasured, type ContestFile, type Entry, type MeasuredEntry } from "./results.ts";
import { amount, worstOf, type TargetOutcome } from "./target.ts";

/** One line when a match is over: each contestant with its time or why it has none. */
export function matchLine({ match, entries }: MatchResult): string {
  const played = entries.filter(({ outcome }) => outcome !== "skipped");
  const told = played.map((entry) => {
    const who = new Set(played.map(({ contestant }) => contestant)).size > 1 ? entry.contestant : entry.title;
    return `${who} ${isMeasured(entry) ? `${milliseconds(entry.timing.medianMs)} ms` : whyNotMeasured(entry)}`;
  });
  return `${match.title}:  ${told.join(", ") || "nobody plays"}`;
}

/** One table of the grid's cases with as many threads and this head dim. */
export interface ComparisonRows {
  readonly threads: number;
  readonly D: number;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/**
 * Ours beside each peer: GFLOP/s, and how many times faster ours is in brackets. Cases that no peer met are left out, and who takes no part.
 */
export function comparisonRows({ contestants, entries, roof }: ContestFile): ComparisonRows[] {
  const threadsOf = new Map(contestants.map(({ id, threads }) => [id, threads]));
  const nameOf = new Map(contestants.map(({ id, name }) => [id, name]));
  const isPeer = ({ contestant }: Entry): boolean => !contestant.startsWith("ours");
  const played = entries.filter(({ outcome }) => outcome !== "skipped");
  const grid = played.filter(({ id }) => played.some((entry) => entry.id === id && isPeer(entry)));
  const groups = Map.groupBy(grid, ({ contestant, D }) => `${threadsOf.get(contestant)} ${D}`);
  return [...groups.values()].flatMap((group) => {
    const { contestant, D } = group[0];
    const threads = threadsOf.get(contestant)!;
    const ours = `ours/${threads}`;
    const peers = [...new Set(group.filter(isPeer).map((entry) => entry.contestant))];
    const cases = [...Map.groupBy(group, ({ id }) => id).values()];
    const rows = cases.map((members) => {
      const own = members.find((entry) => entry.contestant === ours);
      const measured = own && isMeasured(own) ? own : undefined;
      const share = measured && gflopsOf(measured) / roof!.gflops / threads;
      return [
        `S ${members[0].Sq}, ${members[0].causal ? "causal" : "full"}`,
        !own ? "-" : isMeasured(own) ? rate(gflopsOf(own)) : shortReason(own),
        share === undefined ? "-" : `${(100 * share).toFixed(0)} %`,
        ...peers.map((id) => {
          const peer = members.find((entry) => entry.contestant === id);
          if (!peer) return "-";
          if (!isMeasured(peer)) return shortReason(peer);
          const times = measured && peer.timing.medianMs / measured.timing.medianMs;
          return `${rate(gflopsOf(peer))}${times === undefined ? "" : ` (${times.toPrecision(times < 10 ? 2 : 3)}x)`}`;
        }),
      ];
    });
    return { threads, D, head: ["case", "ours", "of roof", ...peers.map((id) => nameOf.get(id)!)], rows };
  });
}

/** What the columns of a comparison mean. */
export const COMPARISON_NOTE: string =
  "GFLOP/s of visible pairs, and in brackets how many times faster ours is; median of turns taken in one run, each entry " +
  "verified against float64 first";

export function headingOf({ threads, D }: ComparisonRows): string {
  return `${threads === 1 ? "one thread" : `${threads} threads`}, D ${D}`;
}

export const TARGET_COLUMNS = ["target", "required", "measured", "where", "state"] as const;

/** One row a target: what is required, the reading that decides, where that was, and whether it is met. */
export function targetRow(target: TargetOutcome): string[] {
  const { title, bound, required, unit, state } = target;
  const worst = worstOf(target);
  return [
    title,
    `${bound} ${amount(required, unit)}`,
    worst ? amount(worst.value, unit) : "-",
    worst?.case ?? "-",
    state,
  ];
}

/** "fails: SafeIntOnOverflow": the reason up to its first punctuation, for a cell. */
function shortReason(entry: Exclude<Entry, MeasuredEntry>): string {
  return entry.outcome === "wrong" ? "WRONG" : `fails: ${entry.reason.split(/[:;,(]/, 1)[0].trim()}`;
}

function rate(gflops: number): string {
  return gflops.toFixed(gflops < 10 ? 2 : 1);
}

function milliseconds(ms: number): string {
  return ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3);
}

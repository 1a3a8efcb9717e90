/** `explain`: which back end and kernel would run a problem, and why not the others. */
import { createAttention, FaError, type CandidateReport, type MeasuredProblem } from "@fa/core";
import { askedCase } from "./asked-cases.ts";
import type { ExplainOptions } from "./commands.node.ts";
import { explained, explanationLines } from "./explanation.ts";
import { currentCommit, thisMachine } from "./machine.node.ts";
import { SCHEMA, VERSION } from "./results.ts";
import { saveText } from "./save.node.ts";
import { providersOf } from "./station.node.ts";
import { fileStore } from "./store.node.ts";
import type { Terminal } from "./terminal.node.ts";

/**
 * @returns 1 when nothing here runs the problem
 * @throws the signal's reason, once measuring is over; what was measured is in the store by then
 */
export async function explain(options: ExplainOptions, terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { pass, queries, keys: Skv, measure, store, json } = options;
  const Sq = queries ?? (pass === "decode" ? 1 : Skv);
  const { problem } = askedCase({ ...options, Sq, Skv });
  const measurable = measure ? measurableOf(options, Sq) : undefined;
  const measured = measurable && (await measureAll(options, measurable, store));
  signal.throwIfAborted();
  const explanation = await explained(problem, providersOf(options), measured);
  terminal.print(explanationLines(explanation).join("\n"));
  if (json !== undefined) {
    const machine = thisMachine();
    const about = { schema: SCHEMA, version: VERSION, kind: "explanation", machine, date: new Date().toISOString() };
    const text = JSON.stringify({ ...about, commit: currentCommit(), measured: measure, ...explanation }, null, 2);
    await saveText(json, `${text}\n`, "explanation", terminal);
  }
  return explanation.candidates.some(({ taken, runs }) => taken && runs) ? 0 : 1;
}

/** What core can time before there is an instance to make tensors on. @throws FaError for the rest */
function measurableOf(options: ExplainOptions, Sq: number): MeasuredProblem {
  const tensors = (["alibi", "bias", "mask", "sinks"] as const).filter((name) => options[name]);
  if (options.pass === "backward" || tensors.length > 0) {
    const got = options.pass === "backward" ? "--pass backward" : tensors.map((name) => `--${name}`).join(", ");
    throw new FaError(
      "FA_OPTION",
      `explain(--measure): it must be a forward without bias, mask, slopes or sinks; got ${got}. Leave --measure out, or time it with run.`,
    );
  }
  const { batch: B, heads: H, headsKv, dim: D, dimV, keys: Skv, dtype, causal, window, softcap, dropout } = options;
  return {
    B,
    H,
    Hkv: headsKv ?? H,
    Sq,
    Skv,
    D,
    Dv: dimV ?? D,
    dtype,
    options: { causal, window, softcap, ...(dropout !== undefined && { dropout: { p: dropout, seed: 42 } }) },
  };
}

async function measureAll(
  options: ExplainOptions,
  problem: MeasuredProblem,
  store: string,
): Promise<readonly CandidateReport[]> {
  const backends = providersOf(options);
  await using fa = await createAttention({ backends, select: "measured", problem, store: fileStore(store) });
  return fa.report;
}

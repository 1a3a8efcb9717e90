import { fork, type ChildProcess } from "node:child_process";
import { extname } from "node:path";
import type { AttentionCase } from "../cases.ts";
import { ContestantError, type Contestant, type Gauge, type Placed } from "../contest.ts";
import type { Answer, Questions } from "./child.node.ts";
import type { PlayerSpec } from "./player.ts";

/** No call of a case takes this long; a library that does is stuck. */
const PATIENCE_MS = 180_000;

/** Asks a process of its own, which a library may spoil or crash without hurting the others. */
export class Remote {
  readonly #child: ChildProcess;
  #complaints = "";

  constructor() {
    const ours = import.meta.url;
    // Sources run as they are, with the packages' sources; a build runs the build.
    const source = ours.endsWith(".ts");
    const child = fork(new URL(`./child.node${extname(ours)}`, ours), {
      execArgv: source ? ["--conditions=@fa/source"] : [],
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    child.stderr!.on("data", (text) => (this.#complaints = `${this.#complaints}${text}`.slice(-2000)));
    child.on("error", () => {}); // `ask` tells it; without a question nobody needs to know.
    this.#child = child;
  }

  /** @throws ContestantError with what the library said, or how its process ended */
  async ask<Name extends keyof Questions>(
    name: Name,
    argument: Questions[Name][0],
    patienceMs: number = PATIENCE_MS,
  ): Promise<Questions[Name][1]> {
    const child = this.#child;
    const answered = Promise.withResolvers<Answer>();
    const ended = (code: number | null, signal: string | null): void => {
      const last = this.#complaints.trimEnd().split("\n").at(-1);
      answered.reject(new ContestantError(`its process ended, ${signal ?? `exit code ${code}`}${last && `: ${last}`}`));
    };
    const timer = setTimeout(() => {
      answered.reject(new ContestantError(`no answer in ${patienceMs / 1000} s`));
      child.kill("SIGKILL");
    }, patienceMs);
    const unreachable = ({ message }: Error): void => answered.reject(new ContestantError(message));
    child
      .once("message", answered.resolve as (message: unknown) => void)
      .once("exit", ended)
      .once("error", unreachable);
    try {
      if (!child.connected) ended(child.exitCode, child.signalCode);
      else child.send({ name, argument });
      const answer = await answered.promise;
      if ("error" in answer) throw new ContestantError(answer.error);
      return answer.value as Questions[Name][1];
    } finally {
      clearTimeout(timer);
      child.removeAllListeners("message").off("exit", ended).off("error", unreachable);
    }
  }

  /** Ends the process. Calling it again does nothing. */
  async close(): Promise<void> {
    const { pid, exitCode, signalCode } = this.#child;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    const exited = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await exited;
  }
}

export interface RemoteContestant extends Contestant {
  /** Asks its process, which is opened if it is not. */
  readonly ask: Remote["ask"];
}

/** A library in a process of its own, started when it is first needed and again after a failure. */
export function remoteContestant(id: string, name: string, spec: PlayerSpec, mayErr?: number): RemoteContestant {
  let remote: Remote | undefined;
  let what: Promise<string> | undefined;
  const open = (): Promise<string> => {
    remote ??= new Remote();
    what ??= remote.ask("open", spec);
    return what;
  };
  const close = async (): Promise<void> => {
    const closing = remote;
    remote = what = undefined;
    await closing?.close();
  };
  return {
    id,
    name,
    threads: spec.threads,
    mayErr,
    open,
    async place(item: AttentionCase): Promise<Placed> {
      await open();
      const at = remote!;
      const { handle, chained, inputSets } = await at.ask("place", item);
      return {
        first: () => at.ask("first", handle),
        inputSets,
        ...(chained && { pace: () => at.ask("pace", handle) }),
        sample: (calls) => at.ask("sample", { handle, calls }),
        free: () => at.ask("free", handle),
      };
    },
    async ask(question, argument, patienceMs) {
      await open();
      return remote!.ask(question, argument, patienceMs);
    },
    close,
  };
}

/** The gauges, in a process of their own. */
export function remoteGauge(): { readonly gauge: Gauge; readonly close: () => Promise<void> } {
  const remote = new Remote();
  return { gauge: (name, item) => remote.ask("gauge", { name, item }), close: () => remote.close() };
}

/** Asks a process that has just started, and ends it. */
export async function askAlone<Name extends keyof Questions>(
  name: Name,
  argument: Questions[Name][0],
): Promise<Questions[Name][1]> {
  const remote = new Remote();
  try {
    return await remote.ask(name, argument);
  } finally {
    await remote.close();
  }
}

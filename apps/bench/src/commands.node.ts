/** The command line: what it may say, and what was asked by it. Whatever can be found wrong before any work is found here. */
import { existsSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { InvalidArgumentError, Option, type Command } from "commander";
import { FLOAT_DTYPES, nearest, type FloatDType } from "@fa/core";
import type { Tier } from "@fa/backend-webgpu";
import { ASKED_PASSES, type AskedOptions, type AskedPass } from "./asked-cases.ts";
import {
  BACKENDS,
  list,
  mainCommand,
  oneOf,
  optionsOf,
  seconds,
  wholeNumber,
  WITH_TARGETS,
  writable,
  type Options,
} from "./options.node.ts";
import type { BackendChoice } from "./station.node.ts";
import type { Terminal } from "./terminal.node.ts";

/** What was asked. */
export type Request =
  | ({ readonly command: "main" | "compare" } & Options)
  | ({ readonly command: "run" } & RunOptions)
  | ({ readonly command: "roofline" } & RooflineOptions)
  | ({ readonly command: "explain" } & ExplainOptions)
  | ({ readonly command: "report" } & ReportOptions);

/** Where results go, and what they call the machine. */
export interface Output {
  readonly json?: string | undefined;
  readonly plot?: string | undefined;
  readonly machine?: string | undefined;
}

export interface RunOptions extends BackendChoice, AskedOptions, Output {
  readonly passes: readonly AskedPass[];
  readonly dtypes: readonly FloatDType[];
  readonly sizes: readonly number[];
  readonly budget: number;
}

export interface RooflineOptions extends BackendChoice, Output {
  /** Results to place; measured here if there are none. */
  readonly files: readonly string[];
  readonly dtypes: readonly FloatDType[];
  readonly budget: number;
}

export interface ExplainOptions extends BackendChoice, AskedOptions {
  readonly pass: AskedPass;
  readonly dtype: FloatDType;
  /** Sq, where it is not that of the keys or, to decode, 1. */
  readonly queries?: number | undefined;
  readonly keys: number;
  readonly measure: boolean;
  /** The file that measured choices are kept in. */
  readonly store: string;
  readonly json?: string | undefined;
}

export interface ReportOptions {
  readonly files: readonly string[];
  readonly out: string;
  readonly json?: string | undefined;
}

/** @throws CommanderError, after its message has been written; with exit code 0 for --help and --version */
export function parseCommandLine(argv: readonly string[], terminal: Terminal): Request {
  let request: Request | undefined;
  const program = mainCommand(terminal).enablePositionalOptions().helpCommand(true);
  // Else a command that nobody knows is an argument too many.
  program.allowExcessArguments(true).action(() => {
    const [unknown] = program.args;
    if (unknown !== undefined) refuseCommand(program, unknown);
    const options = optionsOf(program);
    const compares = options.peers || options.targets !== undefined;
    request = { command: compares ? "compare" : "main", ...options };
  });
  const command = (name: string, description: string): Command =>
    program.command(name).description(description).allowExcessArguments(false);

  const run = withOutput(
    withProblem(withBackends(command("run", "measures a sweep of your own: sizes, options, dtypes, passes"))),
  )
    .addOption(list("--sizes <S,...>", "sequence lengths; of the cache, to decode").default(SIZES, SIZES.join(",")))
    .addOption(several("--pass <pass,...>", `what is called: ${ASKED_PASSES.join(", ")}`, ASKED_PASSES, "forward"))
    .addOption(several("--dtype <type,...>", "of q, k and v", FLOAT_DTYPES, "float32"))
    .addOption(new Option("--budget <seconds>", "about how long, a back end").default(40).argParser(seconds))
    .addHelpText("after", RUN_HELP);
  run.action(() => {
    const { pass: passes, dtype: dtypes, backend: backends, ...options } = run.opts<RawRun>();
    request = { command: "run", ...options, passes, dtypes, backends };
  });

  const compared = command("compare", "ours beside other libraries on the same cases, taking turns")
    .argument("[backend]", `whose peers: ${WITH_TARGETS.join(", ")}`, (name) => oneOf(WITH_TARGETS, name), "wasm")
    .addOption(list("--sizes <S,...>", "sequence lengths, on wasm"))
    .addOption(new Option("--dim <D>", "head dim, on wasm").argParser(wholeNumber))
    .option("--targets", "measure what is required of the back end as well; on a GPU always")
    .option("--quick", "in small, to see whether everything works; on a GPU's back end also on a software adapter")
    .option("--strict", "exit code 1 when a target is missed or not measured")
    .addHelpText("after", COMPARE_HELP);
  withOutput(compared).action((name: (typeof WITH_TARGETS)[number]) => {
    const { sizes, dim, targets, ...options } = compared.opts<RawCompare>();
    if ((sizes || dim) && (targets || name !== "wasm")) {
      compared.error("error: --sizes and --dim go with wasm and without --targets: the cases of targets are given.");
    }
    const all = ["--peers", ...(targets || name !== "wasm" ? ["--targets", name] : [])];
    if (sizes) all.push("--sizes", sizes.join(","));
    if (dim) all.push("--dim", String(dim));
    for (const [flag, value] of Object.entries(options))
      all.push(`--${flag}`, ...(value === true ? [] : [String(value)]));
    request = parseCommandLine(all, terminal);
  });

  const roofline = withOutput(
    withBackends(command("roofline", "every result under what the machine's arithmetic and memory allow")),
  )
    .argument("[files...]", "results that --json wrote; without any it measures", readable, [])
    .addOption(several("--dtype <type,...>", "of what it measures", FLOAT_DTYPES, "float32"))
    .addOption(new Option("--budget <seconds>", "about how long, of what it measures").default(30).argParser(seconds))
    .addHelpText("after", ROOFLINE_HELP);
  roofline.action((files: string[]) => {
    const { dtype: dtypes, backend: backends, ...options } = roofline.opts<RawRun>();
    request = { command: "roofline", ...options, files, dtypes, backends };
  });

  const explain = withProblem(
    withBackends(command("explain", "which back end and kernel would run a problem, and why not the others")),
  )
    .addOption(oneWord("--pass <pass>", `what is called: ${ASKED_PASSES.join(", ")}`, ASKED_PASSES, "forward"))
    .addOption(oneWord("--dtype <type>", "of q, k and v", FLOAT_DTYPES, "float32"))
    .addOption(
      new Option("--queries <Sq>", "query rows (default: as many as keys; 1 to decode)").argParser(wholeNumber),
    )
    .addOption(new Option("--keys <Skv>", "keys").default(1024).argParser(wholeNumber))
    .option("--measure", 'time every back end on the problem and take the fastest, as select: "measured" does')
    .addOption(
      new Option("--store <file>", "where --measure keeps what it found")
        .default(STORE, STORE_WORDS)
        .argParser(storeFile),
    )
    .option("--json <file>", "write what was found", writable())
    .addHelpText("after", EXPLAIN_HELP);
  explain.action(() => {
    const { backend: backends, measure = false, ...options } = explain.opts<RawExplain>();
    request = { command: "explain", ...options, backends, measure };
  });

  const report = command("report", "one page of HTML from result files, whole in itself: charts, tables, machines")
    .argument("<files...>", "results that --json wrote", readable)
    .requiredOption("--out <file.html>", "the page to write", writable(".html"))
    .option("--json <file>", "write the results of all files as one list", writable());
  report.action((files: string[]) => {
    request = { command: "report", ...report.opts<Omit<ReportOptions, "files">>(), files };
  });

  program.parse(argv, { from: "user" });
  // No action ran without one: `help` ends in an error of its own.
  return request!;
}

type RawRun = Omit<RunOptions, "passes" | "dtypes" | "backends"> & {
  readonly pass: readonly AskedPass[];
  readonly dtype: readonly FloatDType[];
  readonly backend?: readonly string[];
};
type RawExplain = Omit<ExplainOptions, "backends" | "measure"> & {
  readonly backend?: readonly string[];
  readonly measure?: boolean;
};
interface RawCompare extends Record<string, unknown> {
  readonly sizes?: readonly number[];
  readonly dim?: number;
  readonly targets?: boolean;
}

const SIZES = [128, 256, 512, 1024, 2048];

/** As the XDG specification has it. */
const STORE = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "fa", "selection.json");
const STORE_WORDS = "fa/selection.json in the user's cache";

const TIERS: readonly Tier[] = ["portable", "subgroups", "matrix"];

const RUN_HELP = `
Every result is verified against the float64 reference before it is timed. Of several back ends each has a results file of its own,
NAME-BACKEND.json of NAME.json.

Examples:
  fa-bench run --backend wasm,reference --sizes 128,256
  fa-bench run --causal --window 255,0 --softcap 30 --heads 32 --heads-kv 8 --dtype float16,bfloat16
  fa-bench run --pass decode --sizes 4096,16384 --heads 32 --heads-kv 8 --dim 128 --json decode.json
  fa-bench run --pass backward --bias --dropout 0.1 --plot backward.svg`;

const COMPARE_HELP = `
Beside wasm: onnxruntime-web, jax-js and tfjs-wasm. Beside webgpu: onnxruntime-node on its WebGPU. Beside cuda: PyTorch. Each entry is verified against float64
first; one that errs or fails is shown as that, and has no time. The same as --peers and --targets without a command.

Examples:
  fa-bench compare --sizes 512 --json compared.json --plot compared.svg
  fa-bench compare webgpu --quick
  fa-bench compare cuda --json cuda.json`;

const ROOFLINE_HELP = `
A result's bound is the roof of arithmetic, or what memory moves a second times its arithmetic intensity: flop a byte that has to be moved at
least. Both are measured on the machine of the results, in the same run.

Examples:
  fa-bench roofline --plot roofline.svg
  fa-bench roofline results.json decode.json`;

const EXPLAIN_HELP = `
Examples:
  fa-bench explain --causal --dtype float16 --dim 128
  fa-bench explain --pass decode --keys 8192 --heads 32 --heads-kv 8 --measure`;

function withBackends(command: Command): Command {
  return command
    .addOption(several("--backend <name,...>", "these back ends (default: the best that is installed)", BACKENDS))
    .addOption(oneWord("--tier <tier>", "the most of a GPU that webgpu uses", TIERS))
    .option("--software", "let the processor play a GPU for webgpu");
}

function withProblem(command: Command): Command {
  const number = (flags: string, description: string, value?: number): Option =>
    new Option(flags, description).default(value).argParser(wholeNumber);
  return command
    .addOption(number("--batch <B>", "batch", 1))
    .addOption(number("--heads <H>", "query heads", 8))
    .addOption(number("--heads-kv <Hkv>", "key and value heads, for GQA and MQA (default: as many)"))
    .addOption(number("--dim <D>", "head dim", 64))
    .addOption(number("--dim-v <Dv>", "head dim of v (default: the same)"))
    .addOption(
      oneWord("--causal [alignment]", "bottom-right, or top-left", ["bottom-right", "top-left"]).preset("bottom-right"),
    )
    .addOption(new Option("--window <left,right>", "keys that a row sees beside it; -1 is all").argParser(windowOf))
    .addOption(new Option("--softcap <cap>", "caps scores by tanh").argParser(aboveZero))
    .addOption(new Option("--dropout <p>", "drops probabilities").argParser(share))
    .option("--alibi", "ALiBi, with the slopes of its paper")
    .option("--bias", "a bias of its own for every score")
    .option("--mask", "a mask that hides every fourth key or so")
    .option("--sinks", "a sink for every head");
}

function withOutput(command: Command): Command {
  return command
    .option("--json <file>", "write the results", writable())
    .option("--plot <file.svg>", "draw them", writable(".svg"))
    .option("--machine <name>", "what results call this machine (default: its processor)");
}

function several<T extends string>(flags: string, description: string, known: readonly T[], value?: T): Option {
  const parse = (text: string): T[] => [...new Set(text.split(",").map((one) => oneOf(known, one.trim())))];
  const option = new Option(flags, description).argParser(parse);
  return value === undefined ? option : option.default([value], value);
}

function oneWord<T extends string>(flags: string, description: string, known: readonly T[], value?: T): Option {
  const option = new Option(flags, description).argParser((text: string) => oneOf(known, text));
  return value === undefined ? option : option.default(value);
}

function numberIn(text: string, holds: (number: number) => boolean, rule: string): number {
  const number = Number(text);
  if (text.trim() === "" || !holds(number)) throw new InvalidArgumentError(`It must be ${rule}.`);
  return number;
}

const aboveZero = (text: string): number => numberIn(text, (n) => n > 0 && n < Infinity, "a number above 0");
const share = (text: string): number => numberIn(text, (n) => n >= 0 && n <= 1, "a number from 0 to 1");

function windowOf(text: string): [number, number] {
  const sides = text.split(",").map(Number);
  const [left, right] = sides;
  if (sides.length !== 2 || !sides.every((side) => Number.isSafeInteger(side) && side >= -1)) {
    throw new InvalidArgumentError("It must be two whole numbers from -1, like 255,0.");
  }
  return [left, right];
}

/** Files that are read, found out before any work. */
function readable(path: string, before: readonly string[] = []): readonly string[] {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) throw new InvalidArgumentError("There is no such file.");
  if (found.isDirectory()) throw new InvalidArgumentError("It is a folder.");
  return [...before, path];
}

/** The folder of the default one may still have to be made. */
function storeFile(path: string): string {
  return existsSync(path) && statSync(path).isFile() ? resolve(path) : writable()(path);
}

function refuseCommand(program: Command, unknown: string): never {
  const names = program.commands.map((command) => command.name());
  const near = nearest(unknown, names);
  const hint = near ? `(Did you mean ${near}?)` : `There are ${names.join(", ")}.`;
  return program.error(`error: unknown command '${unknown}'\n${hint}`);
}

import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { FLOAT_DTYPES, nearest, type FloatDType } from "@fa/core";
import type { Terminal } from "./terminal.node.ts";

/** Back ends that something is required of. */
export const WITH_TARGETS = ["wasm", "webgpu", "cuda"] as const;
/** Back ends that `@fa/core/auto` knows, in its order. */
export const BACKENDS = ["cuda", "webgpu", "wasm", "reference"] as const;

export interface Options {
  readonly backend?: string | undefined;
  readonly sizes: readonly number[];
  readonly heads: number;
  readonly dim: number;
  readonly dtype: FloatDType;
  readonly budget: number;
  readonly quick: boolean;
  readonly json?: string | undefined;
  readonly plot?: string | undefined;
  readonly machine?: string | undefined;
  /** Compare with other libraries. */
  readonly peers: boolean;
  /** The back end whose targets are measured. */
  readonly targets?: (typeof WITH_TARGETS)[number] | undefined;
  /** A target that is missed makes the exit code 1. */
  readonly strict: boolean;
  /** Whether sizes and dim were asked for. */
  readonly chosen: { readonly sizes: boolean; readonly dim: boolean };
}

/** Options without a default of their own. */
type Depends = "quick" | "budget" | "peers" | "strict";

export { CommanderError };

const SIZES = [128, 256, 512, 1024, 2048, 4096];
const QUICK = { sizes: [128, 256], budget: 10 };

const HELP = `
Every result is verified against the float64 reference or PyTorch's golden data before it is timed.
Exit codes: 0 all right, 1 a wrong or failed case of ours or a bad argument, 130 stopped by Ctrl-C.

fa-bench COMMAND --help (npm run bench -- COMMAND --help) tells what a command takes.

Examples:
  npm start
  npm start -- --backend wasm --sizes 512,1024 --json results.json --plot sweep.svg
  npm start -- --quick
  npm run bench -- --backend wasm --peers
  npm run bench -- --targets wasm --peers --json all.json --plot all.svg
  npm run bench -- --targets webgpu --peers --json gpu.json
  npm run bench -- --targets cuda --peers --json cuda.json`;

/** The command line without its subcommands. */
export function mainCommand(terminal: Terminal): Command {
  return new Command("fa-bench")
    .description("Runs the best @fa back end of this machine: verified first, then timed. Other jobs have commands.")
    .version(version(), "--version", "print the version")
    .helpOption("--help", "print this help")
    .option("--backend <name>", `take this one: ${BACKENDS.join(", ")}`, backendName)
    .addOption(list("--sizes <S,...>", "sequence lengths of the sweep").default(SIZES, SIZES.join(",")))
    .addOption(new Option("--heads <H>", "heads of the sweep").default(8).argParser(wholeNumber))
    .addOption(new Option("--dim <D>", "head dim of the sweep").default(64).argParser(wholeNumber))
    .addOption(new Option("--dtype <type>", "of the sweep").default("float32").argParser(dtypeName))
    .option(
      "--budget <seconds>",
      "about how long; cases that would take over a quarter are skipped (default: 40, quick: 10)",
      seconds,
    )
    .option("--quick", `a few seconds: a small FlashMHA, sizes ${QUICK.sizes.join(",")}`)
    .addOption(
      new Option(
        "--peers",
        "compare with other libraries, taking turns: those of the processor; of the GPU onnxruntime-node, or PyTorch with CUDA",
      ).conflicts(["dtype", "budget"]),
    )
    .addOption(
      new Option("--targets <backend>", `measure what is required of a back end: ${WITH_TARGETS.join(", ")}`)
        .argParser((value) => oneOf(WITH_TARGETS, value))
        .conflicts(["backend", "sizes", "heads", "dim", "dtype", "budget"]),
    )
    .option("--strict", "exit code 1 when a target is missed or not measured")
    .option("--json <file>", "write the results", writable())
    .option("--plot <file.svg>", "draw GFLOP/s over S", writable(".svg"))
    .option("--machine <name>", "what results call this machine (default: its processor)")
    .addHelpText("after", HELP)
    .showHelpAfterError("Run with --help for the options.")
    .configureOutput({
      writeOut: (text) => terminal.print(text.trimEnd()),
      writeErr: (text) => terminal.complain(text.trimEnd()),
    })
    .exitOverride();
}

/**
 * What was asked of the command line without subcommands. Whatever can be found wrong before any work is found here.
 * @throws CommanderError, after its message has been written
 */
export function optionsOf(program: Command): Options {
  const options = program.opts<Omit<Options, Depends> & Partial<Pick<Options, Depends>>>();
  const isChosen = (name: string): boolean => program.getOptionValueSource(name) !== "default";
  const chosen = { sizes: isChosen("sizes"), dim: isChosen("dim") };
  const { quick = false, peers = false, strict = false } = options;
  if (quick && options.targets === "wasm")
    program.error("error: --quick has no --targets wasm: they are of full sizes.");
  if (peers && options.backend !== undefined && options.backend !== "wasm") {
    program.error(`error: --peers compares the wasm back end; got --backend ${options.backend}.`);
  }
  return {
    ...options,
    quick,
    peers,
    strict,
    chosen,
    sizes: quick && !chosen.sizes ? QUICK.sizes : options.sizes,
    budget: options.budget ?? (quick ? QUICK.budget : 40),
  };
}

function version(): string {
  const manifest = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(manifest) as { version: string }).version;
}

export function oneOf<T extends string>(known: readonly T[], value: string): T {
  if ((known as readonly string[]).includes(value)) return value as T;
  const near = nearest(value, known);
  throw new InvalidArgumentError(
    near ? `Did you mean ${near}? There are ${known.join(", ")}.` : `There are ${known.join(", ")}.`,
  );
}

const backendName = (value: string): string => oneOf(BACKENDS, value);
const dtypeName = (value: string): FloatDType => oneOf(FLOAT_DTYPES, value);

export function wholeNumber(value: string): number {
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < 1 || !Number.isSafeInteger(number)) {
    throw new InvalidArgumentError("It must be a whole number from 1.");
  }
  return number;
}

export function list(flags: string, description: string): Option {
  return new Option(flags, description).argParser((value: string) => {
    const sizes = value.split(",").map((size) => {
      try {
        return wholeNumber(size.trim());
      } catch {
        throw new InvalidArgumentError("It must be whole numbers from 1 with commas between them, like 128,256.");
      }
    });
    return [...new Set(sizes)].toSorted((a, b) => a - b);
  });
}

export function seconds(value: string): number {
  const number = Number(value);
  if (value.trim() === "" || !(number > 0 && number < Infinity)) {
    throw new InvalidArgumentError("It must be a number of seconds above 0.");
  }
  return number;
}

/** A path that can be written to, found out before the run and without making the file. */
export function writable(extension = ""): (value: string) => string {
  return (value) => {
    const path = resolve(value);
    const refuse = (why: string): never => {
      throw new InvalidArgumentError(why);
    };
    if (!path.endsWith(extension)) refuse(`The name must end in ${extension}.`);
    const existing = statSync(path, { throwIfNoEntry: false });
    if (existing?.isDirectory()) refuse("It is a folder.");
    const folder = dirname(path);
    const inside = statSync(folder, { throwIfNoEntry: false });
    if (!inside?.isDirectory()) refuse(`There is no folder ${folder}.`);
    try {
      accessSync(existing ? path : folder, constants.W_OK);
    } catch (error) {
      refuse(`It cannot be written: ${(error as NodeJS.ErrnoException).code}.`);
    }
    return path;
  };
}

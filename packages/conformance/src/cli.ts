import { Command, InvalidArgumentError } from "commander";
import { reference, type BackendProvider } from "@fa/core";
import { formatReport } from "./report.ts";
import { conformance, conformanceChecks, type CheckResult, type ConformanceOptions } from "./runner.ts";

const { argv, stderr, stdout } = process;
const { createRequire } = process.getBuiltinModule("node:module");
const { pathToFileURL } = process.getBuiltinModule("node:url");

const integer = (text: string): number => {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError("Expected an integer from 1.");
  return value;
};
const object = (text: string): object => {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value;
  } catch {}
  throw new InvalidArgumentError(`Expected a JSON object, such as '{"threads":2}'.`);
};
const partOf = (text: string): NonNullable<ConformanceOptions["part"]> => {
  const [, number, of] = (/^(\d+)\/(\d+)$/.exec(text) ?? []).map(Number);
  if (number >= 1 && number <= of) return { number, of };
  throw new InvalidArgumentError("Expected a part and how many there are, such as 3/16.");
};
const folder = (path: string): URL => pathToFileURL(`${path.replace(/\/$/, "")}/`);
const list = (text: string): string[] => text.split(",");

const command = new Command("fa-conformance")
  .description("Holds an attention back end to the contract of @fa and prints what it promises and keeps.")
  .requiredOption("-b, --backend <module>", '"reference", a package, or a path; MODULE#NAME names the export')
  .option("-p, --provider-options <json>", "what the provider is made with", object)
  .option("-o, --only <text>", "only checks whose name contains this")
  .option("-c, --capability <names>", "only these capabilities, separated by commas", list)
  .option("--part <n/m>", "only the nth of m parts of the checks, to run them side by side", partOf)
  .option("--block-size <n>", "tile size forced on every call", integer)
  .option("--runs <n>", "random problems a property", integer, 12)
  .option("--seed <n>", "seed of the random problems", integer, 1)
  .option("--torch <folder>", "also PyTorch cases from attention.json and .safetensors there", folder)
  .option("--onnx <folder>", "also the ONNX project's node tests from there", folder)
  .option("--json", "print the report as JSON")
  .option("--list", "print the names of the checks and run none")
  .addHelpText("after", "\nExit status: 0 all passed or refused, 1 a check failed, 2 the back end did not open.");

interface Flags {
  readonly backend: string;
  readonly providerOptions?: object;
  readonly only?: string;
  readonly capability?: string[];
  readonly part?: ConformanceOptions["part"];
  readonly blockSize?: number;
  readonly runs: number;
  readonly seed: number;
  readonly torch?: URL;
  readonly onnx?: URL;
  readonly json?: boolean;
  readonly list?: boolean;
}

/**
 * The provider that a module exports: a provider or a function that returns one, by the name after `#`, else by the back
 * end's own name (`@fa/backend-wasm` exports `wasm`) or as default.
 */
async function load(specifier: string, options?: object): Promise<BackendProvider> {
  const [name, wanted] = specifier.split("#") as [string, string | undefined];
  if (name === "reference") return reference();
  const module = (await import(locate(name))) as Record<string, unknown>;
  const own = name.replace(/^.*backend-/, "").replace(/[^a-z0-9].*$/i, "");
  for (const exported of wanted === undefined ? [own, "default"] : [wanted]) {
    const value = module[exported];
    const provider: unknown = typeof value === "function" ? (value as (options?: object) => unknown)(options) : value;
    const { probe, open } = (provider ?? {}) as Partial<BackendProvider>;
    if (typeof probe === "function" && typeof open === "function") return provider as BackendProvider;
  }
  const exports = Object.keys(module).join(", ") || "nothing";
  throw new Error(`it must export a provider, as MODULE#NAME says; it exports ${exports}`);
}

/** A path or package as seen from the working directory, where the back end under test is installed. */
function locate(name: string): string {
  if (/^\.{0,2}\//.test(name)) return pathToFileURL(name).href;
  try {
    return pathToFileURL(createRequire(`${process.cwd()}/`).resolve(name)).href;
  } catch {
    return name;
  }
}

function progress(done: number, total: number, { name }: CheckResult): void {
  if (!stderr.isTTY) return;
  const width = Math.max(20, stderr.columns - 12);
  stderr.write(`\r\u001b[K${done}/${total} ${name.slice(0, width)}`);
}

async function main(): Promise<number> {
  const flags = command.parse(argv).opts<Flags>();
  const { backend, providerOptions, capability: capabilities, json, list: listOnly, ...rest } = flags;
  const options: ConformanceOptions = { ...rest, capabilities };
  const checks = await conformanceChecks(options);
  if (checks.length === 0) {
    stderr.write("fa-conformance: no check matches. --list without filters names them all.\n");
    return 2;
  }
  if (listOnly) {
    for (const { capability, name } of checks) stdout.write(`${capability}\t${name}\n`);
    return 0;
  }
  let provider: BackendProvider;
  try {
    provider = await load(backend, providerOptions);
  } catch (error) {
    stderr.write(`fa-conformance: ${backend} could not be loaded: ${(error as Error).message}\n`);
    return 2;
  }
  let done = 0;
  try {
    const report = await conformance(provider, { ...options, onResult: (r) => progress(++done, checks.length, r) });
    if (stderr.isTTY) stderr.write("\r\u001b[K");
    stdout.write(`${json ? JSON.stringify(report, undefined, 2) : formatReport(report)}\n`);
    return report.failed > 0 ? 1 : 0;
  } catch (error) {
    stderr.write(`fa-conformance: ${(error as Error).message}\n`);
    return 2;
  }
}

process.exit(await main());

/**
 * node dist/readme.js [--check]: rewrites the two parts of the root README.md that a program knows better than people:
 * `numbers`, from apps/bench/results/*.json, and `support`, from the kernel tables of the back ends. With --check it
 * only looks, and exits 1 when they are stale.
 */
import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { DTYPES, FaError, MAX_HEAD_DIM, reference, type BackendProvider } from "@fa/core";
import { kernelTable } from "@fa/backend-cuda";
import { wasm } from "@fa/backend-wasm";
import { KERNELS } from "@fa/backend-webgpu";
import { cells, COLUMNS, headingOf } from "./columns.ts";
import {
  comparisonRows,
  COMPARISON_NOTE,
  headingOf as comparisonHeading,
  TARGET_COLUMNS,
  targetRow,
} from "./comparison.ts";
import { CUDA_NOTE, cudaRoofs, cudaTables } from "./cuda-comparison.ts";
import { GPU_NOTE, gpuName, gpuRoofs, gpuTables } from "./gpu-comparison.ts";
import { isMeasured, parseResults, roofOf, type ContestFile, type ResultsFile, type RunFile } from "./results.ts";
import { supportTable, type Planned, type SupportTable } from "./support.ts";

/** WebGPU with nothing but its default limits, which every device has. */
const webgpuEverywhere: Planned = {
  name: "webgpu",
  capabilities: {
    dtypes: DTYPES,
    maxHeadDim: MAX_HEAD_DIM,
    sharedBytes: 16 * 1024,
    maxBufferBytes: 256 * 2 ** 20,
    features: [],
  },
  kernels: KERNELS,
};

/** CUDA on the least of devices: compute capability 8.6 has the least shared memory. */
const cudaEverywhere: Planned = {
  name: "cuda",
  capabilities: {
    dtypes: DTYPES,
    maxHeadDim: MAX_HEAD_DIM,
    sharedBytes: 99 * 1024,
    maxBufferBytes: 4 * 2 ** 30,
    features: [],
  },
  kernels: kernelTable(16),
};

/** Columns of the support table. Add a back end here when it lands. */
async function supported(): Promise<Planned[]> {
  return [cudaEverywhere, webgpuEverywhere, await planned(wasm()), await planned(reference())];
}

const ROOT = join(import.meta.dirname, "../../..");
const RESULTS = "apps/bench/results";

/** The lines of Markdown that belong between the markers `<!-- name:begin -->` and `<!-- name:end -->`. */
export type Parts = Readonly<Record<string, string>>;

/** @throws FaError FA_OPTION when a pair of markers is missing or upside down */
export function replaceParts(readme: string, parts: Parts): string {
  return Object.entries(parts).reduce((text, [name, lines]) => {
    const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
    const from = text.indexOf(begin);
    const to = text.indexOf(end, from);
    if (from === -1 || to === -1) {
      const missing = from === -1 ? begin : `${end} after ${begin}`;
      throw new FaError(
        "FA_OPTION",
        `README.md: it must have the markers ${begin} and ${end}; found no ${missing}. Put them back.`,
      );
    }
    return `${text.slice(0, from + begin.length)}\n${lines}\n${text.slice(to)}`;
  }, readme);
}

/**
 * The numbers of result files, one table a file.
 * @param charts names of the files, without extension, that have an SVG beside them
 */
export function numbersPart(files: ReadonlyMap<string, ResultsFile>, charts: ReadonlySet<string>): string {
  if (files.size === 0) return `No results yet: \`npm start -- --json ${RESULTS}/NAME.json\` writes some.`;
  return [...files]
    .map(([name, file]) => {
      const own = file.kind === "run" ? file.outcomes : file.entries.filter(({ contestant }) => isOurs(contestant));
      const unfit = own.find(({ outcome }) => outcome === "wrong" || outcome === "failed");
      if (unfit || !file.complete) {
        const what = unfit ? `${unfit.id} ${unfit.outcome}` : "a run that was stopped";
        const rule = "results in the README must be of whole runs without a wrong or failed case of ours";
        throw new FaError("FA_OPTION", `${RESULTS}/${name}.json: ${rule}; got ${what}. Run again.`);
      }
      const chart = charts.has(name) ? [`![GFLOP/s over sequence length](${RESULTS}/${name}.svg)`] : [];
      return [...paragraphsOf(file), ...chart].join("\n\n");
    })
    .join("\n\n");
}

const isOurs = (contestant: string): boolean => contestant.startsWith("ours");

function factsOf({ machine, date, commit }: ResultsFile): string {
  const facts = [machine.platform, machine.runtime, date.slice(0, 10), commit && `commit \`${commit}\``];
  return facts.filter(Boolean).join(", ");
}

function paragraphsOf(file: ResultsFile): string[] {
  if (file.kind === "run") return runParagraphs(file);
  const paragraphs = { wasm: contestParagraphs, webgpu: gpuParagraphs, cuda: cudaParagraphs }[file.contestOf](file);
  return [...paragraphs, ...targetsParagraphs(file)];
}

function runParagraphs(file: RunFile): string[] {
  const { machine, backend, roof, outcomes } = file;
  const rows = outcomes.filter(isMeasured).map((outcome) => {
    const [title, ...numbers] = cells(outcome, roofOf(file, outcome));
    return [`${headingOf(outcome)}: ${title}`, ...numbers];
  });
  return [
    `**${machine.name}**, back end ${backend.name} (${backend.device}), ${factsOf(file)}. ` +
      `Roof: ${roof.gflops.toFixed(1)} GFLOP/s, ${roof.what}.`,
    markdownTable(COLUMNS, rows, "---:"),
  ];
}

/** Who takes part besides ours, and who does not. */
function librariesOf({ contestants }: ContestFile): string {
  const libraries = contestants
    .filter(({ id, threads, takesPart }) => takesPart && threads === 1 && !isOurs(id))
    .map(({ name, what }) => `${name} ${what}`);
  const absent = contestants.filter(({ takesPart }) => !takesPart).map(({ id, what }) => `${id} (${what})`);
  return [...libraries, ...(absent.length > 0 ? [`not taking part: ${absent.join("; ")}`] : [])].join("; ");
}

/** A sentence on gauges, if any was read. */
const measured = (roofs: string): string => (roofs ? `Measured in the same run: ${roofs}. ` : "");

/** Ours by what it may use of a GPU, beside onnxruntime. */
function gpuParagraphs(file: ContestFile): string[] {
  const { machine, gpu } = file;
  const tiers = file.contestants
    .filter(({ id, takesPart }) => takesPart && isOurs(id))
    .map(({ name, what }) => `${name}: ${what}`);
  const who = [...tiers, librariesOf(file)].filter(Boolean).join("; ");
  return [
    `**${machine.name}, WebGPU**, B 1, ${[gpu && gpuName(gpu), factsOf(file)].filter(Boolean).join(", ")}. ` +
      `${measured(gpuRoofs(file))}${who}. ${GPU_NOTE}.`,
    ...gpuTables(file).map(({ heading, head: [, ...head], rows }) => markdownTable([heading, ...head], rows, "---:")),
  ];
}

/** Ours on CUDA, beside PyTorch. */
function cudaParagraphs(file: ContestFile): string[] {
  const { machine, gpu } = file;
  return [
    `**${machine.name}, CUDA**, ${[gpu && gpuName(gpu), factsOf(file)].filter(Boolean).join(", ")}. ` +
      `${measured(cudaRoofs(file))}${librariesOf(file)}. ${CUDA_NOTE}.`,
    ...cudaTables(file).map(({ heading, head: [, ...head], rows }) => markdownTable([heading, ...head], rows, "---:")),
  ];
}

/** Ours beside the peers. */
function contestParagraphs(file: ContestFile): string[] {
  const { machine, roof } = file;
  const paragraphs = [
    `**${machine.name}, beside other libraries**, B 1, H 8, float32, ${factsOf(file)}. ` +
      `Roof: ${roof!.gflops.toFixed(1)} GFLOP/s a thread, ${roof!.what}. ` +
      `${librariesOf(file)}. ${COMPARISON_NOTE}.`,
  ];
  for (const comparison of comparisonRows(file)) {
    const [, ...head] = comparison.head;
    paragraphs.push(markdownTable([comparisonHeading(comparison), ...head], comparison.rows, "---:"));
  }
  return paragraphs;
}

/** What is required beside what was measured. */
function targetsParagraphs({ contestOf, targets }: ContestFile): string[] {
  if (targets.length === 0) return [];
  return [
    `What the ${contestOf} back end is required to reach, and the reading that decides:`,
    markdownTable(TARGET_COLUMNS, targets.map(targetRow), "---"),
  ];
}

export function supportPart({ columns, rows }: SupportTable): string {
  const lines = rows.map(({ capability, cells: answers }) => [capability, ...answers]);
  return markdownTable(["forward and backward", ...columns], lines, "---");
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[], align: string): string {
  const line = (texts: readonly string[]): string =>
    `| ${texts.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = head.map((_, n) => (n === 0 ? "---" : align));
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}

async function planned(provider: BackendProvider): Promise<Planned> {
  const backend = await provider.open();
  const { name, capabilities, kernels } = backend;
  await backend.dispose();
  return { name, capabilities, kernels };
}

/** What the repository's results and kernel tables say. */
async function partsOf(root: string): Promise<Parts> {
  const files = new Map(
    globSync("*.json", { cwd: join(root, RESULTS) })
      .toSorted()
      .map((file) => {
        const path = join(RESULTS, file);
        return [basename(file, ".json"), parseResults(readFileSync(join(root, path), "utf8"), path)] as const;
      }),
  );
  const charts = new Set([...files.keys()].filter((name) => existsSync(join(root, RESULTS, `${name}.svg`))));
  return { numbers: numbersPart(files, charts), support: supportPart(supportTable(await supported())) };
}

/** @returns the exit code */
export async function main(argv: readonly string[], root: string = ROOT): Promise<number> {
  const unknown = argv.find((argument) => argument !== "--check");
  if (unknown !== undefined) {
    console.error(`readme: the only option is --check; got ${unknown}`);
    return 1;
  }
  const path = join(root, "README.md");
  try {
    if (!existsSync(path))
      throw new FaError("FA_OPTION", "README.md: it must exist; got no such file. Write it first.");
    const before = readFileSync(path, "utf8");
    const after = replaceParts(before, await partsOf(root));
    if (after === before) return 0;
    if (argv.includes("--check")) {
      console.error("README.md is stale: its numbers or support table differ from results and kernel tables.");
      console.error("Run `npm run readme`.");
      return 1;
    }
    writeFileSync(path, after);
    console.log("README.md written");
    return 0;
  } catch (error) {
    if (!(error instanceof FaError)) throw error;
    console.error(error.message);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));

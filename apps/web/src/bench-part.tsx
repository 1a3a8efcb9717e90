import type { VNode } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import {
  cells,
  COLUMNS,
  footnotes,
  formatResults,
  gflopsOf,
  headingOf,
  isMeasured,
  parseResults,
  rate,
  renderSvg,
  reportPage,
  SCHEMA,
  sweepChart,
  VERSION,
  whyNotMeasured,
  type Outcome,
  type RunFile,
} from "@fa/bench";
import { FLOAT_DTYPES, type FloatDType } from "@fa/core";
import { Button, Count, Scrolls } from "./controls.tsx";
import { Chart, useLook } from "./chart.tsx";
import { thisMachine } from "./machine.ts";
import { start, type Task } from "./work/task.ts";
import {
  BACKENDS,
  BENCH_PARTS,
  type BackendId,
  type BackendState,
  type BenchPart as Part,
  type BenchPlan,
} from "./work/work.ts";

const SIZES = [128, 256, 512, 1024, 2048, 4096, 8192];

const PLAN: BenchPlan = {
  parts: ["tutorial", "module", "sweep"],
  sizes: [128, 256, 512, 1024, 2048],
  heads: 8,
  dim: 64,
  dtype: "float32",
  quick: true,
  budgetMs: 10_000,
};

/** Where a run is. */
interface Progress {
  readonly titles: readonly string[];
  readonly done: number;
  readonly startedAt: number;
}

/** The benchmark: each case verified, and only then timed. */
export function BenchPart({ backends }: { readonly backends: readonly BackendState[] }): VNode {
  const [backend, setBackend] = useState<BackendId>();
  const [plan, setPlan] = useState(PLAN);
  const [name, setName] = useState("");
  const [progress, setProgress] = useState<Progress>();
  const [file, setFile] = useState<RunFile>();
  const [message, setMessage] = useState("");
  const [trouble, setTrouble] = useState("");
  const task = useRef<Task>(undefined);
  const chosen = backend ?? backends[0]?.id;

  async function run(): Promise<void> {
    setTrouble("");
    setMessage("");
    setFile(undefined);
    setProgress({ titles: [], done: 0, startedAt: performance.now() });
    const commit = await currentCommit();
    let made: RunFile | undefined;
    task.current = start("bench", { backend: chosen, plan }, (told) => {
      if (told.kind === "begun") {
        const { titles, run: facts } = told;
        made = {
          schema: SCHEMA,
          version: VERSION,
          kind: "run",
          machine: thisMachine(name.trim()),
          date: new Date().toISOString(),
          commit,
          ...facts,
          complete: false,
          outcomes: [],
        };
        setProgress({ titles, done: 0, startedAt: performance.now() });
      } else if (told.kind === "outcome") {
        made = { ...made!, outcomes: [...made!.outcomes, told.outcome] };
        setProgress((now) => now && { ...now, done: now.done + 1 });
      } else made = withBest(made!, told);
      setFile(made);
    });
    try {
      const end = await task.current.done;
      if (made && end === "finished") setFile((made = { ...made, complete: true }));
      setMessage(end === "finished" ? ending(made!.outcomes) : "Stopped. What was measured is kept.");
    } catch (error) {
      setTrouble((error as Error).message);
    } finally {
      setProgress(undefined);
    }
  }

  async function read(input: HTMLInputElement): Promise<void> {
    const [picked] = input.files ?? [];
    if (!picked) return;
    setTrouble("");
    setMessage("");
    try {
      const opened = parseResults(await picked.text(), picked.name);
      if (opened.kind === "run") {
        setFile(opened);
        setMessage(`${picked.name}: ${opened.outcomes.length} cases, measured ${opened.date.slice(0, 10)}.`);
      } else setTrouble(`${picked.name} is of a contest between libraries; this page shows runs of one back end.`);
    } catch (error) {
      setTrouble((error as Error).message);
    } finally {
      input.value = "";
    }
  }

  const change = (changes: Partial<BenchPlan>): void => setPlan({ ...plan, ...changes });
  const toggled = <T,>(all: readonly T[], one: T, among: readonly T[]): T[] =>
    among.filter((other) => (other === one ? !all.includes(one) : all.includes(other)));
  const isRunning = progress !== undefined;
  const isSized = plan.parts.some((part) => part === "sweep" || part === "backward" || part === "decode");
  const isEmpty = plan.parts.length === 0 || (isSized && plan.sizes.length === 0);
  const canRun = chosen !== undefined && !isRunning && !isEmpty;

  return (
    <section id="benchmark" aria-labelledby="benchmark-title">
      <h2 id="benchmark-title">Benchmark</h2>
      <p>
        Every case is verified against the float64 reference or PyTorch's answers before it is timed; one that errs has
        no time. A GPU is timed by its own clock where it has one, all else by the wall's.
      </p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (canRun) void run();
        }}
      >
        <fieldset disabled={isRunning}>
          <legend>Back end</legend>
          {backends.length === 0 && <p class="quiet">Looking around...</p>}
          {backends.map(({ id }) => (
            <label key={id}>
              <input type="radio" name="backend" checked={chosen === id} onChange={() => setBackend(id)} />
              {BACKENDS[id]}
            </label>
          ))}
        </fieldset>
        <fieldset disabled={isRunning}>
          <legend>Pace</legend>
          <label>
            <input
              type="radio"
              name="pace"
              checked={plan.quick}
              onChange={() => change({ quick: true, budgetMs: 10_000 })}
            />
            quick: about 10 seconds
          </label>
          <label>
            <input
              type="radio"
              name="pace"
              checked={!plan.quick}
              onChange={() => change({ quick: false, budgetMs: 60_000 })}
            />
            thorough: about a minute, more samples, a large FlashMHA
          </label>
        </fieldset>
        <details>
          <summary>What to measure</summary>
          <fieldset disabled={isRunning}>
            <legend>Groups of cases</legend>
            {(Object.keys(BENCH_PARTS) as Part[]).map((part) => (
              <label key={part}>
                <input
                  type="checkbox"
                  checked={plan.parts.includes(part)}
                  onChange={() => change({ parts: toggled(plan.parts, part, Object.keys(BENCH_PARTS) as Part[]) })}
                />
                {BENCH_PARTS[part]}
              </label>
            ))}
          </fieldset>
          <fieldset disabled={isRunning}>
            <legend>Sequence lengths S</legend>
            {SIZES.map((S) => (
              <label key={S}>
                <input
                  type="checkbox"
                  checked={plan.sizes.includes(S)}
                  onChange={() => change({ sizes: toggled(plan.sizes, S, SIZES) })}
                />
                {S}
              </label>
            ))}
          </fieldset>
          <fieldset disabled={isRunning} class="fields">
            <legend>Attention</legend>
            <Count title="heads H" value={plan.heads} max={64} set={(heads) => change({ heads })} />
            <Count title="head dim D" value={plan.dim} max={256} set={(dim) => change({ dim })} />
            <label>
              dtype{" "}
              <select
                value={plan.dtype}
                onChange={({ currentTarget }) => change({ dtype: currentTarget.value as FloatDType })}
              >
                {FLOAT_DTYPES.map((dtype) => (
                  <option key={dtype}>{dtype}</option>
                ))}
              </select>
            </label>
          </fieldset>
          <label>
            What results call this machine{" "}
            <input
              type="text"
              value={name}
              placeholder={thisMachine("").name}
              disabled={isRunning}
              onInput={({ currentTarget }) => setName(currentTarget.value)}
            />
          </label>
        </details>
        <p class="buttons">
          <Button main off={!canRun}>
            Run the benchmark
          </Button>
          <Button off={!isRunning} onClick={() => task.current?.cancel()}>
            Stop
          </Button>
          <label class="button">
            <input
              type="file"
              accept=".json,application/json"
              disabled={isRunning}
              onChange={({ currentTarget }) => void read(currentTarget)}
            />
            Open a results file
          </label>
        </p>
      </form>
      {progress && <Running progress={progress} />}
      <p role="status" class="said">
        {progress ? phase(progress) : message}
      </p>
      <p role="alert" class="trouble">
        {trouble}
      </p>
      {file && <Results file={file} isRunning={isRunning} />}
    </section>
  );
}

/** The better of both measurements: what else the machine did only ever slowed one down. */
function withBest(file: RunFile, { roof, bandwidth }: Pick<RunFile, "roof" | "bandwidth">): RunFile {
  return {
    ...file,
    roof: roof.gflops > file.roof.gflops ? roof : file.roof,
    bandwidth: bandwidth && file.bandwidth && bandwidth.gbs > file.bandwidth.gbs ? bandwidth : file.bandwidth,
  };
}

/** What is read aloud: one line a case. */
function phase({ titles, done }: Progress): string {
  if (titles.length === 0) return "Measuring what this machine can do at best...";
  return `${done} of ${titles.length} cases done${done < titles.length ? `; now ${titles[done]}` : ""}.`;
}

function Running({ progress: { titles, done, startedAt } }: { readonly progress: Progress }) {
  const passedMs = performance.now() - startedAt;
  const leftMs = done > 0 ? (passedMs / done) * (titles.length - done) : undefined;
  return (
    <p>
      <progress max={Math.max(titles.length, 1)} value={done} aria-label="cases done" />{" "}
      <span class="quiet">{leftMs !== undefined && `about ${Math.ceil(leftMs / 1000)} s left`}</span>
    </p>
  );
}

function ending(outcomes: readonly Outcome[]): string {
  const count = (kind: Outcome["outcome"]): number => outcomes.filter(({ outcome }) => outcome === kind).length;
  const parts = (["measured", "wrong", "failed", "skipped"] as const).map((kind) => [count(kind), kind] as const);
  return `Finished: ${parts
    .filter(([n, kind]) => n > 0 || kind === "measured")
    .map(([n, kind]) => `${n} ${kind}`)
    .join(", ")}.`;
}

/** Tables, chart and the file itself. */
function Results({ file, isRunning }: { readonly file: RunFile; readonly isRunning: boolean }) {
  const look = useLook();
  const option = useMemo(() => sweepChart(file, look), [file, look]);
  const [said, setSaid] = useState("");
  useEffect(() => setSaid(""), [file]);
  const { backend, machine, roof, outcomes } = file;
  /** A file is whole when its run is over. */
  const isUnripe = isRunning || outcomes.length === 0;
  const groups = [...Map.groupBy(outcomes, headingOf)];

  async function copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(formatResults(file));
      setSaid("Copied.");
    } catch {
      setSaid("The browser does not let the page copy here: download the file instead.");
    }
  }

  return (
    <article aria-labelledby="results-title">
      <h3 id="results-title">
        Results <span class="quiet">{machine.name}</span>
      </h3>
      <p>
        Back end {backend.name}: {backend.device}. Roof {roof.gflops.toFixed(1)} GFLOP/s: {roof.what}.
      </p>
      {groups.map(([heading, members]) => (
        <Scrolls key={heading} label={heading}>
          <table class="numbers">
            <caption>{heading}</caption>
            <thead>
              <tr>
                {COLUMNS.map((column) => (
                  <th key={column} scope="col">
                    {column}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {members.map((outcome) => (
                <Row key={outcome.id} outcome={outcome} roof={roof} />
              ))}
            </tbody>
          </table>
        </Scrolls>
      ))}
      {option && <Chart option={option} look={look} label={inWords(file)} />}
      <p class="buttons">
        <Button
          off={isUnripe}
          onClick={() => save(`fa-bench-${backend.name}.json`, "application/json", formatResults(file))}
        >
          Download the results
        </Button>
        <Button off={isUnripe} onClick={() => void copy()}>
          Copy the results
        </Button>
        <Button
          off={isUnripe || !option}
          onClick={() => save(`fa-bench-${backend.name}.svg`, "image/svg+xml", renderSvg(sweepChart(file)!))}
        >
          Download the chart
        </Button>
        <Button
          off={isUnripe}
          onClick={() => {
            const name = `fa-bench-${backend.name}`;
            save(`${name}.html`, "text/html", reportPage([{ name: `${name}.json`, file }]));
          }}
        >
          Download a report
        </Button>
        <span role="status">{said}</span>
      </p>
      <details>
        <summary>What the columns mean</summary>
        <Scrolls label="What the columns mean">
          <pre>{footnotes(file).join("\n")}</pre>
        </Scrolls>
      </details>
    </article>
  );
}

function Row({ outcome, roof }: { readonly outcome: Outcome; readonly roof: RunFile["roof"] }) {
  if (!isMeasured(outcome)) {
    return (
      <tr>
        <th scope="row">{outcome.title}</th>
        <td colSpan={COLUMNS.length - 1} class={outcome.outcome === "skipped" ? "words quiet" : "words trouble"}>
          {whyNotMeasured(outcome)}
        </td>
      </tr>
    );
  }
  const [title, ...rest] = cells(outcome, roof);
  return (
    <tr>
      <th scope="row">{title}</th>
      {rest.map((cell, n) => (
        <td key={COLUMNS[n + 1]}>{cell}</td>
      ))}
    </tr>
  );
}

function inWords({ outcomes, roof }: RunFile): string {
  const sweep = outcomes.filter(isMeasured).filter(({ group }) => group === "sweep" || group === "run");
  const points = sweep.map((outcome) => `${outcome.title}: ${rate(gflopsOf(outcome))}`);
  return `Chart of GFLOP/s over sequence length, under a roof of ${roof.gflops.toFixed(1)}. ${points.join("; ")}.`;
}

function save(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Of the code that runs, where the server knows it. */
async function currentCommit(): Promise<string | null> {
  try {
    return (await (await fetch("commit.json")).json()) as string | null;
  } catch {
    return null;
  }
}

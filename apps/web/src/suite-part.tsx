import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { CheckResult } from "@fa/conformance";
import { MOST_RUNS, searchOf, type Choice } from "./choice.ts";
import { Button, Count } from "./controls.tsx";
import { start, type Task } from "./work/task.ts";
import { BACKENDS, type BackendId, type BackendState } from "./work/work.ts";

/** One back end's way through the suite. */
interface Course {
  readonly backend: BackendId;
  readonly state: "waiting" | "running" | "finished" | "cancelled" | "broken";
  /** Why it is broken. */
  readonly reason?: string | undefined;
  readonly device: string;
  readonly total: number;
  readonly passed: number;
  readonly failures: readonly CheckResult[];
  readonly refusals: readonly CheckResult[];
  readonly ms: number;
}

const fresh = (backend: BackendId): Course => ({
  backend,
  state: "waiting",
  device: "",
  total: 0,
  passed: 0,
  failures: [],
  refusals: [],
  ms: 0,
});

const doneOf = ({ passed, failures, refusals }: Course): number => passed + failures.length + refusals.length;

function counted(course: Course, result: CheckResult): Course {
  const ms = course.ms + result.ms;
  if (result.status === "passed") return { ...course, ms, passed: course.passed + 1 };
  if (result.status === "failed") return { ...course, ms, failures: [...course.failures, result] };
  return { ...course, ms, refusals: [...course.refusals, result] };
}

/** The conformance suite on the back ends that are there, one after the other. */
export function SuitePart({
  backends,
  choice,
}: {
  readonly backends: readonly BackendState[];
  readonly choice: Choice;
}): VNode {
  /** Back ends that do not run: a software adapter only where somebody asks for it. */
  const [left, setLeft] = useState<ReadonlySet<BackendId>>(new Set(choice.backends ? [] : ["webgpu-software"]));
  const [wanted, setWanted] = useState(choice.capabilities);
  const [runs, setRuns] = useState(choice.runs);
  const [courses, setCourses] = useState<readonly Course[]>([]);
  const task = useRef<Task>(undefined);
  const isRunning = courses.some(({ state }) => state === "waiting" || state === "running");

  // An address that names back ends leaves the others out.
  useEffect(() => {
    if (choice.backends) setLeft(new Set(backends.map(({ id }) => id).filter((id) => !choice.backends!.includes(id))));
  }, [backends.length]);

  const taken = backends.map(({ id }) => id).filter((id) => !left.has(id));

  const canRun = !isRunning && taken.length > 0 && wanted?.length !== 0;

  async function run(): Promise<void> {
    const kept = taken.length < backends.length ? taken : undefined;
    history.replaceState(null, "", searchOf({ backends: kept, capabilities: wanted, runs }) || location.pathname);
    setCourses(taken.map(fresh));
    for (const backend of taken) {
      const change = (how: (course: Course) => Course): void =>
        setCourses((all) => all.map((course) => (course.backend === backend ? how(course) : course)));
      change((course) => ({ ...course, state: "running" }));
      task.current = start("suite", { backend, capabilities: wanted, runs }, (told) =>
        change((course) => (told.kind === "begun" ? { ...course, ...told } : counted(course, told.result))),
      );
      try {
        const state = await task.current.done;
        change((course) => ({ ...course, state }));
        if (state === "cancelled") break;
      } catch (error) {
        change((course) => ({ ...course, state: "broken", reason: (error as Error).message }));
      }
    }
    setCourses((all) => all.map((course) => (course.state === "waiting" ? { ...course, state: "cancelled" } : course)));
  }

  return (
    <section id="conformance" aria-labelledby="conformance-title">
      <h2 id="conformance-title">Conformance</h2>
      <p>
        One suite holds every back end to the same answers: PyTorch's, the definition's in float64, and properties on
        random problems. All of it takes some seconds to some minutes a back end.
      </p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (canRun) void run();
        }}
      >
        <fieldset disabled={isRunning}>
          <legend>Back ends</legend>
          {backends.length === 0 && <p class="quiet">Looking around...</p>}
          {backends.map(({ id }) => (
            <label key={id}>
              <input
                type="checkbox"
                checked={!left.has(id)}
                onChange={() =>
                  setLeft(new Set(left.has(id) ? [...left].filter((other) => other !== id) : [...left, id]))
                }
              />
              {BACKENDS[id]}
            </label>
          ))}
        </fieldset>
        <Capabilities wanted={wanted} setWanted={setWanted} disabled={isRunning} />
        <Count title="Random problems a property" value={runs} max={MOST_RUNS} off={isRunning} set={setRuns} />
        <p class="buttons">
          <Button main off={!canRun}>
            Run the suite
          </Button>
          <Button off={!isRunning} onClick={() => task.current?.cancel()}>
            Cancel
          </Button>
        </p>
      </form>
      <p role="status" class="said">
        {spoken(courses)}
      </p>
      {courses.map((course) => (
        <CourseView key={course.backend} course={course} />
      ))}
    </section>
  );
}

/** Which checks run. The list comes from the suite itself, when somebody asks for it. */
function Capabilities({
  wanted,
  setWanted,
  disabled,
}: {
  readonly wanted: readonly string[] | undefined;
  readonly setWanted: (wanted: readonly string[] | undefined) => void;
  readonly disabled: boolean;
}) {
  const [known, setKnown] = useState<readonly (readonly [string, number])[]>();
  const [trouble, setTrouble] = useState<string>();
  const isAsked = useRef(false);

  function ask(): void {
    if (isAsked.current) return;
    isAsked.current = true;
    start("capabilities", undefined, setKnown).done.catch((error: Error) => setTrouble(error.message));
  }

  const all = known?.map(([name]) => name) ?? [];
  const isWanted = (name: string): boolean => wanted === undefined || wanted.includes(name);
  const toggle = (name: string): void => {
    const chosen = all.filter((other) => (other === name ? !isWanted(name) : isWanted(other)));
    setWanted(chosen.length === all.length ? undefined : chosen);
  };
  return (
    <details onToggle={ask}>
      <summary>
        What to check:{" "}
        {wanted === undefined
          ? "everything"
          : wanted.length <= 5
            ? wanted.join(", ") || "nothing"
            : `${wanted.length} capabilities`}
      </summary>
      {trouble && <p class="trouble">The suite could not be loaded: {trouble}</p>}
      {!known && !trouble && <p class="quiet">Loading the suite...</p>}
      {known && (
        <fieldset disabled={disabled}>
          <legend>Capabilities, with the number of their checks</legend>
          <p class="buttons">
            <Button onClick={() => setWanted(undefined)}>All</Button>
            <Button onClick={() => setWanted([])}>None</Button>
          </p>
          <div class="choices">
            {known.map(([name, checks]) => (
              <label key={name}>
                <input type="checkbox" checked={isWanted(name)} onChange={() => toggle(name)} />
                {name} <span class="quiet">{checks}</span>
              </label>
            ))}
          </div>
        </fieldset>
      )}
    </details>
  );
}

/** What is read aloud: beginnings and ends, and each quarter of the way. */
function spoken(courses: readonly Course[]): string {
  const current = courses.findLast(({ state }) => state !== "waiting");
  if (!current) return "";
  const name = BACKENDS[current.backend];
  if (current.state === "broken") return `${name}: ${current.reason}`;
  if (current.state === "running") {
    const quarter = current.total > 0 ? Math.floor((4 * doneOf(current)) / current.total) * 25 : 0;
    return `${name}: running, ${quarter} % done, ${current.failures.length} failed.`;
  }
  return courses.map((course) => `${BACKENDS[course.backend]}: ${verdict(course)}`).join(" ");
}

function verdict(course: Course): string {
  const { state, total, passed, failures, refusals, ms, reason } = course;
  if (state === "broken") return `could not run: ${reason}`;
  if (state === "waiting") return "waits.";
  if (state === "finished" && total === 0) return "no check has these capabilities.";
  const counts = `${passed} passed, ${failures.length} failed, ${refusals.length} refused`;
  if (state === "running") return `${doneOf(course)} of ${total || "..."}: ${counts}`;
  return state === "finished"
    ? `${counts}, in ${(ms / 1000).toFixed(1)} s.`
    : `cancelled after ${doneOf(course)} of ${total}: ${counts}.`;
}

function CourseView({ course }: { readonly course: Course }) {
  const { backend, device, total, failures, refusals, state } = course;
  const title = `suite-${backend}`;
  return (
    <article aria-labelledby={title}>
      <h3 id={title}>
        {BACKENDS[backend]} <span class="quiet">{device}</span>
      </h3>
      <progress max={Math.max(total, 1)} value={doneOf(course)} aria-label={`${BACKENDS[backend]}: checks done`} />
      <p class={failures.length > 0 || state === "broken" ? "trouble" : ""}>{verdict(course)}</p>
      <Results title="Failed" results={failures} open />
      <Results title="Refused, with the reason" results={refusals} />
    </article>
  );
}

function Results({
  title,
  results,
  open = false,
}: {
  readonly title: string;
  readonly results: readonly CheckResult[];
  readonly open?: boolean;
}) {
  if (results.length === 0) return null;
  return (
    <details open={open}>
      <summary>
        {title}: {results.length}
      </summary>
      <ul class="results">
        {results.map(({ name, capability, reason }) => (
          <li key={name}>
            <strong>
              {capability}: {name}
            </strong>
            <br />
            {reason}
          </li>
        ))}
      </ul>
    </details>
  );
}

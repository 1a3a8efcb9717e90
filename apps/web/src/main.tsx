import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { BenchPart } from "./bench-part.tsx";
import { BrowserPart } from "./browser-part.tsx";
import { choiceIn } from "./choice.ts";
import { SuitePart } from "./suite-part.tsx";
import { TilesPart } from "./tiles/tiles-part.tsx";
import { start } from "./work/task.ts";
import type { Work } from "./work/work.ts";

function Page() {
  const [seen, setSeen] = useState<Work["look"]["tell"] | Error>();
  useEffect(() => {
    start("look", undefined, setSeen).done.catch(setSeen);
  }, []);
  const backends = seen === undefined || seen instanceof Error ? [] : seen.backends.filter(({ ok }) => ok);
  const choice = choiceIn(location.search);
  return (
    <>
      <BrowserPart seen={seen} />
      <SuitePart backends={backends} choice={choice} />
      <BenchPart backends={backends} />
      <TilesPart />
    </>
  );
}

const parts = document.getElementById("parts")!;
parts.replaceChildren();
render(<Page />, parts);

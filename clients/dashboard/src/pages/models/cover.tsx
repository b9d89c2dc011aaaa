/** The picture that stands for a model: small in lists, whole on its card. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { Model } from "@modelkeep/client/gen/modelkeep/model/v1/model_pb";
import { sleep } from "@modelkeep/client";
import { cover, setCover, smallCover } from "../../api/covers";
import { suite } from "../../api/suite";
import { canAct } from "../../api/token";
import { Action } from "../../ui/action";
import { attempt } from "../../ui/notices";

const KINDS = "image/png,image/jpeg,image/webp,image/gif";
/** A row that is scrolled past sooner asks for nothing. */
const PAUSE_MS = 120;

/** A small picture, or its empty place. */
export function SmallCover({ model }: { model: Model }) {
  const [url, setUrl] = useState("");
  const sha256 = model.coverImage?.sha256 ?? "";
  useEffect(() => {
    setUrl("");
    if (sha256 === "") return;
    const stop = new AbortController();
    sleep(PAUSE_MS, stop.signal)
      .then(() => smallCover(model.key, sha256, stop.signal))
      // One that cannot be shown leaves its place empty.
      .then((found) => stop.signal.aborted || setUrl(found), () => undefined);
    return () => stop.abort();
  }, [model.key, sha256]);
  return <span class="cover">{url !== "" && <img src={url} alt="" />}</span>;
}

/** The whole picture; nothing where there is none. */
export function Cover({ model }: { model: Model }) {
  const [url, setUrl] = useState("");
  const sha256 = model.coverImage?.sha256 ?? "";
  useEffect(() => {
    if (sha256 === "") return;
    const stop = new AbortController();
    let made = "";
    cover(model.key, stop.signal).then(
      (picture) => {
        if (!stop.signal.aborted) setUrl((made = URL.createObjectURL(picture)));
      },
      () => undefined,
    );
    return () => {
      stop.abort();
      setUrl("");
      if (made !== "") URL.revokeObjectURL(made);
    };
  }, [model.key, sha256]);
  return url === "" ? null : <img class="picture" src={url} alt={`Picture of ${model.name}`} />;
}

/** Sets the picture by a file, and removes it. */
export function CoverButtons({ model: { key, coverImage } }: { model: Model }) {
  const picker = useRef<HTMLInputElement>(null);
  const [busy, setBusy] = useState(false);
  const pick = async (input: HTMLInputElement) => {
    const [file] = input.files ?? [];
    // So that the same file can be picked again.
    input.value = "";
    if (file === undefined) return;
    setBusy(true);
    await attempt(() => setCover(key, file), "The picture is set.");
    setBusy(false);
  };
  return (
    <>
      <input
        ref={picker}
        type="file"
        hidden
        aria-label="File of the picture"
        accept={KINDS}
        onChange={(event) => void pick(event.currentTarget)}
      />
      <button type="button" disabled={busy || !canAct()} onClick={() => picker.current?.click()}>
        {coverImage === undefined ? "Add a picture …" : "Another picture …"}
      </button>
      {coverImage !== undefined && (
        <Action run={() => suite.records.deleteCoverImage({ key })} done="The picture is removed.">
          Remove picture
        </Action>
      )}
    </>
  );
}

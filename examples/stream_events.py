"""Watch the threads of an answer while they are decoded: `python examples/stream_events.py`."""

from pastalm import DoneEvent, Engine, ForkEvent, JoinEvent, TokenEvent, WaitEvent

PROMPT = "Spell these words backwards: river, stone, cloud, bread, paper."


def main() -> None:
    """Print what happens as it happens, then the text of all events in the order of the document."""
    engine = Engine.from_pretrained("bundled")
    pieces = []
    for event in engine.stream(PROMPT):
        match event:
            case TokenEvent(text=text, place=place):
                pieces.append((place, text))
            case ForkEvent(thread=thread, topic=topic, promised=promised):
                print(f"thread {thread} starts: {topic!r}, promised length {promised} x 10 tokens")
            case WaitEvent():
                print("the main thread waits for its chunks")
            case JoinEvent(children=children):
                print(f"the main thread sees {len(children)} chunks from here on")
            case DoneEvent(response=None, thread=thread):
                print(f"thread {thread} is done")
    print()
    print("".join(text for _, text in sorted(pieces, key=lambda piece: piece[0])))


if __name__ == "__main__":
    main()

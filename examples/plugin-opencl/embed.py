"""embed.py OUTPUT INPUT...: the inputs, one after the other, as the initializer of a C array."""
import sys

text = b"".join(open(name, "rb").read() for name in sys.argv[2:]) + b"\0"
with open(sys.argv[1], "w") as out:
    for at in range(0, len(text), 20):
        out.write(",".join(map(str, text[at:at + 20])) + ",\n")

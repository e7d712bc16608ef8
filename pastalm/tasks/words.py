"""Shared word lists for the task families.

No word stands in two lists and none is the beginning of another in its list, so that a checker can look for whole
words. Lower case except for the names and cities.
"""

NAMES = (
    "Ada", "Ben", "Carl", "Dora", "Eli", "Fay", "Gus", "Hana", "Ivan", "Jane",
    "Kai", "Lena", "Max", "Nora", "Omar", "Pia", "Quinn", "Rita", "Sam", "Tess",
    "Uma", "Vera", "Wanda", "Yara", "Zoe", "Alma", "Boris", "Clara", "Dan", "Emil",
    "Frida", "Greg", "Hugo", "Iris", "Jonas", "Kira", "Leo", "Mona", "Nils", "Otto",
)  # fmt: skip

CITIES = (
    "Lima", "Oslo", "Bern", "Rome", "Cairo", "Delhi", "Kyoto", "Quito", "Riga", "Turin",
    "Accra", "Basel", "Dakar", "Graz", "Hanoi", "Izmir", "Jaipur", "Kazan", "Lyon", "Malmo",
    "Narvik", "Orlin", "Porto", "Siena", "Tunis", "Ulm", "Varna", "Wexby", "York", "Zadar",
)  # fmt: skip

FRUITS = (
    "apple", "banana", "cherry", "guava", "fig", "grape", "kiwi", "lemon", "mango", "melon",
    "peach", "pear", "plum", "quince", "papaya", "orange",
)  # fmt: skip

ANIMALS = (
    "cat", "dog", "fox", "horse", "goat", "owl", "rabbit", "tiger", "bear", "wolf",
    "duck", "mouse", "sheep", "camel", "otter", "zebra", "parrot", "donkey", "seal", "frog",
)  # fmt: skip

JOBS = (
    "baker", "doctor", "teacher", "farmer", "pilot", "painter", "nurse", "driver", "tailor", "judge",
    "sailor", "miner", "singer", "cook", "writer", "clerk", "lawyer", "dancer",
)  # fmt: skip

COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple",
    "silver", "golden", "beige", "violet", "scarlet", "cream",
)  # fmt: skip

OBJECTS = (
    "lamp", "chair", "table", "clock", "drum", "kettle", "bottle", "basket", "mirror", "pencil",
    "hammer", "ladder", "carpet", "bucket", "candle", "guitar", "teapot", "pillow", "radio", "spoon",
    "jacket", "helmet",
)  # fmt: skip

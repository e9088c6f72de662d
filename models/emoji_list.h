// The objects of the default data: distinct at ten pixels, one word each, one code point each.
// Names: Unicode CLDR annotations (English), (c) Unicode, Inc., under the Unicode licence
// (https://www.unicode.org/license.txt). Articles and plurals: ours.
#pragma once

#include "models/sprite.h"

namespace clip {

struct EmojiEntry {
  char32_t code_point;
  Noun noun;
};

inline constexpr EmojiEntry kEmojiList[] = {
    {0x1F415, {"a", "dog", "dogs"}},
    {0x1F98A, {"a", "fox", "foxes"}},
    {0x1F981, {"a", "lion", "lions"}},
    {0x1F993, {"a", "zebra", "zebras"}},
    {0x1F404, {"a", "cow", "cows"}},
    {0x1F416, {"a", "pig", "pigs"}},
    {0x1F43C, {"a", "panda", "pandas"}},
    {0x1F984, {"a", "unicorn", "unicorns"}},
    {0x1F427, {"a", "penguin", "penguins"}},
    {0x1F989, {"an", "owl", "owls"}},
    {0x1F9A9, {"a", "flamingo", "flamingos"}},
    {0x1F438, {"a", "frog", "frogs"}},
    {0x1F422, {"a", "turtle", "turtles"}},
    {0x1F41F, {"a", "fish", "fish"}},
    {0x1F419, {"an", "octopus", "octopuses"}},
    {0x1F40C, {"a", "snail", "snails"}},
    {0x1F98B, {"a", "butterfly", "butterflies"}},
    {0x1F577, {"a", "spider", "spiders"}},
    {0x1F980, {"a", "crab", "crabs"}},
    {0x1F349, {"a", "watermelon", "watermelons"}},
    {0x1F34B, {"a", "lemon", "lemons"}},
    {0x1F34C, {"a", "banana", "bananas"}},
    {0x1F34D, {"a", "pineapple", "pineapples"}},
    {0x1F353, {"a", "strawberry", "strawberries"}},
    {0x1F955, {"a", "carrot", "carrots"}},
    {0x1F344, {"a", "mushroom", "mushrooms"}},
    {0x1F951, {"an", "avocado", "avocados"}},
    {0x1F346, {"an", "eggplant", "eggplants"}},
    {0x1F355, {"a", "pizza", "pizzas"}},
    {0x1F354, {"a", "hamburger", "hamburgers"}},
    {0x1F369, {"a", "doughnut", "doughnuts"}},
    {0x1F9C1, {"a", "cupcake", "cupcakes"}},
    {0x1F33B, {"a", "sunflower", "sunflowers"}},
    {0x1F337, {"a", "tulip", "tulips"}},
    {0x1F335, {"a", "cactus", "cacti"}},
    {0x1F3E0, {"a", "house", "houses"}},
    {0x1F680, {"a", "rocket", "rockets"}},
    {0x26F5, {"a", "sailboat", "sailboats"}},
    {0x2708, {"an", "airplane", "airplanes"}},
    {0x1F69C, {"a", "tractor", "tractors"}},
    {0x2602, {"an", "umbrella", "umbrellas"}},
    {0x1F308, {"a", "rainbow", "rainbows"}},
    {0x1F388, {"a", "balloon", "balloons"}},
    {0x1F3C0, {"a", "basketball", "basketballs"}},
    {0x1F3B8, {"a", "guitar", "guitars"}},
    {0x1F451, {"a", "crown", "crowns"}},
    {0x260E, {"a", "telephone", "telephones"}},
    {0x1F4F7, {"a", "camera", "cameras"}},
    {0x1F4A3, {"a", "bomb", "bombs"}},
    {0x1F916, {"a", "robot", "robots"}},
};

}  // namespace clip

// Texts that one thread tokenizes in a second of processor time: captions of 10 to 20 words, and the damaged texts of the
// parity test. With an argument, the texts are written there, one a line, for
// tests/reference/make_tokenizer_reference.py --speed, which times open_clip's tokenizer on them.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

#include "engine/check.h"
#include "engine/random.h"
#include "models/tokenizer.h"
#include "tests/reference_path.h"
#include "tests/tokenizer_texts.h"

namespace clip {
namespace {

constexpr int64_t kContextLength = 77;

/// Words of the vocabulary, frequent ones more often; one in twenty it does not know.
std::string caption(const Tokenizer& tokenizer, Random& random) {
  const int64_t words = 10 + random.below(11);
  std::string text;
  for (int64_t i = 0; i < words;) {
    std::string word;
    if (random.below(20) == 0) {
      const int64_t length = 5 + random.below(6);
      for (int64_t k = 0; k < length; ++k) word += static_cast<char>('a' + random.below(26));
    } else {
      const int64_t most = random.below(tokenizer.vocab_size() - 514);
      const int64_t bound = random.below(1 + most);
      const int32_t id = static_cast<int32_t>(512 + random.below(1 + bound));
      if (!tokenizer.spelling(id).ends_with("</w>")) continue;
      word = tokenizer.decode({id});
    }
    if (i == 0 && word[0] >= 'a' && word[0] <= 'z')
      word[0] = static_cast<char>(word[0] - 'a' + 'A');
    text += (i > 0 ? " " : "") + word;
    ++i;
  }
  return text + ".";
}

void measure(const char* name, const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  constexpr int kRuns = 5;
  double best = 1e9;
  size_t ids = 0;
  for (int run = 0; run < kRuns; ++run) {
    const std::clock_t start = std::clock();
    ids = 0;
    for (const std::string& text : texts) ids += tokenizer.tokenize(text, kContextLength).size();
    best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  const double count = static_cast<double>(texts.size());
  std::printf("tokenizer  %-9s %9.0f texts/s  %6.2f us each, %.1f ids\n", name, count / best,
              1e6 * best / count, static_cast<double>(ids) / count);
}

void run(const char* written) {
  const Tokenizer tokenizer = find_clip_merges()
                                  ? clip_tokenizer()
                                  : Tokenizer::load(reference_path("tokenizer_merges.txt"));
  Random random(1, random_stream("captions"));
  std::vector<std::string> captions, damaged;
  for (int i = 0; i < 20000; ++i) captions.push_back(caption(tokenizer, random));
  const TokenizerTexts texts;
  for (int64_t i = 0; i < TokenizerTexts::kCount; ++i) {
    damaged.push_back(texts.text(i));
    for (char& c : damaged.back()) c = c == '\n' ? ' ' : c;
  }
  std::printf("tokenizer  %lld ids, one thread\n", static_cast<long long>(tokenizer.vocab_size()));
  measure("captions", tokenizer, captions);
  measure("damaged", tokenizer, damaged);
  if (written == nullptr) return;
  std::ofstream file(written, std::ios::binary);
  for (const auto* list : {&captions, &damaged}) {
    for (const std::string& text : *list) file << text << '\n';
  }
  CLIP_CHECK(file.flush().good(), written, ": cannot be written");
}

}  // namespace
}  // namespace clip

int main(int argc, char** argv) {
  try {
    clip::run(argc > 1 ? argv[1] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tokenizer_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}

// report.html of a run: whole, readable without other files, and true to the log.
#include "apps/common/report.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/dataset_samples.h"
#include "tests/error_message.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

int64_t count_of(const std::string& part, const std::string& text) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// The first thing that keeps a page from being XML too: a tag that is not closed, or the wrong one,
/// a stray & or quote. Empty if there is none.
std::string malformed(const std::string& html) {
  Strings open;
  for (size_t at = 0; at < html.size(); ++at) {
    if (html[at] == '&' && html.find(';', at) > at + 6) return html.substr(at, 20);
    if (html[at] != '<' || html[at + 1] == '!') continue;
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return html.substr(at, 20);
    const std::string tag = html.substr(at + 1, end - at - 1);
    if (count_of("\"", tag) % 2 != 0 || count_of("<", tag) != 0) return tag;
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) return tag;
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  return open.empty() ? "" : open.back();
}

class Report : public testing::Test {
 protected:
  Report() { folder_.write("run/config.json", R"({"lr": 0.25, "train-data": "pairs.csv"})"); }

  std::string written() const {
    write_report(folder_.path("run"));
    const std::string html = file_bytes(folder_.path("run/report.html"));
    EXPECT_EQ(malformed(html), "");
    return html;
  }

  ScratchFolder folder_;
};

TEST_F(Report, DrawsWhatTheLogHolds) {
  folder_.write("run/log.jsonl",
                R"({"step": 1, "loss": 3, "loss_floor": 1, "loss_chance": 2, "lr": 0.5}
{"step": 2, "loss": 2, "loss_floor": 1, "loss_chance": 2, "lr": null}
{"step": 3, "loss": 1, "loss_floor": 1, "loss_chance": 2, "lr": 0.25}
{"step": 3, "eval": {"chance": 0.125, "unseen_cells": {"correct": 3, "tried": 4, "value": 0.75, "low": 0.5, "high": 1}}}
{"step": 4, "lo)");
  const std::string html = written();
  // Losses 3, 2, 1 from the top to the bottom of their frame, at its left, middle and right.
  expect_contains(html, "<path class=\"c0\" d=\"M58.0 34.0L249.0 115.0L440.0 196.0\"/>");
  expect_contains(html, "<path class=\"c1\" d=\"M58.0 196.0L249.0 196.0L440.0 196.0\"/>");
  // The learning rate of step 2 is not a number.
  expect_contains(html, "<path class=\"c0\" d=\"M58.0 34.0L440.0 196.0\"/>");
  EXPECT_EQ(count_of("<svg ", html), 2);
  expect_contains(html, "Evaluation after step 3");
  expect_contains(html, "<th>unseen cells</th><td class=\"n\">75.00 %</td><td>3 of 4, 95 %: 50.0");
  expect_contains(html, "<th>--lr</th><td class=\"n\">0.25</td>");
}

TEST_F(Report, NeedsNothingElse) {
  folder_.write("run/log.jsonl", "{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n");
  folder_.write("run/samples/1.png", "Man");
  folder_.write("run/samples/2.png", "Ma");
  folder_.write("run/samples/3.png", std::string_view("\xff\x00\xfe\xfd", 4));
  folder_.write("run/samples/captions.json", R"({"step": 2, "pictures": [
    {"file": "1.png", "shows": "a fox", "guesses": [{"caption": "a dog", "probability": 0.5}]},
    {"file": "2.png", "shows": "", "guesses": []}, {"file": "3.png", "shows": "", "guesses": []}]})");
  const std::string html = written();
  for (const char* bytes : {"TWFu", "TWE=", "/wD+/Q=="})
    expect_contains(html, concat("src=\"data:image/png;base64,", bytes, "\""));
  expect_contains(html, "alt=\"a fox\"");
  expect_contains(html, "50.0 %  a dog");
  EXPECT_EQ(count_of("src=", html), count_of("src=\"data:", html));
  for (const char* other : {"<script", "<link", "http"}) EXPECT_EQ(count_of(other, html), 0);
}

TEST_F(Report, TakesTextForText) {
  folder_.write("run <&\">/config.json", R"({"train-data": "<b>\"&amp;\u0001"})");
  write_report(folder_.path("run <&\">"));
  const std::string html = file_bytes(folder_.path("run <&\">/report.html"));
  EXPECT_EQ(malformed(html), "");
  expect_contains(html, "<h1>run &lt;&amp;&quot;&gt;</h1>");
  expect_contains(html, "&lt;b&gt;&quot;&amp;amp; </td>");
}

TEST_F(Report, OfARunWithoutStepsHoldsItsOptions) {
  const std::string html = written();
  EXPECT_EQ(count_of("<svg ", html), 0);
  expect_contains(html, "pairs.csv");
}

TEST_F(Report, OfALongRunStaysSmall) {
  std::string log;
  for (int64_t step = 1; step <= 20'000; ++step)
    log += concat("{\"step\": ", step, ", \"loss\": ", step % 2, "}\n");
  folder_.write("run/log.jsonl", log);
  const std::string html = written();
  EXPECT_LT(html.size(), 20'000);  // 500 points of at most 14 characters, and the page around them
  // Means of 40 losses each, half of them 1: a level line.
  expect_contains(html, "d=\"M58.0 115.0L58.8 115.0L");
}

TEST_F(Report, DrawsWhatHardlyChangesAsALevelLine) {
  // Means of 0.001 that differ in the last bit, as those of a constant learning rate do.
  folder_.write("run/log.jsonl",
                "{\"step\": 1, \"lr\": 0.001}\n{\"step\": 2, \"lr\": 0.0010000000000000002}\n");
  const std::string html = written();
  expect_contains(html, "d=\"M58.0 115.0L440.0 115.0\"");
  expect_contains(html, ">0.001</text>");
}

TEST_F(Report, NamesWhatCannotBeRead) {
  const auto error = [&] { return error_message([&] { write_report(folder_.path("run")); }); };
  folder_.write("run/samples/captions.json", "{\"step\": 2");
  expect_contains(error(), "run/report.html: ");
  folder_.write("run/samples/captions.json", R"({"step": 2, "pictures": []})");
  folder_.write("run/log.jsonl", R"({"step": 1, "eval": {"seen": {"value": 1}}})");
  expect_contains(error(), "run/report.html: ");
  EXPECT_FALSE(std::filesystem::exists(folder_.path("run/report.html")));
}

}  // namespace
}  // namespace clip

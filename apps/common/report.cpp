#include "apps/common/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/common/program.h"
#include "apps/common/run_folder.h"
#include "models/atomic_file.h"

namespace clip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}"
    "h1,h2{font-weight:600}.charts{display:grid;gap:1rem;"
    "grid-template-columns:repeat(auto-fit,minmax(26rem,1fr))}"
    "svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#555}"
    "svg .title{font-size:13px;font-weight:600;fill:#222}svg path{fill:none;stroke-width:1.6}"
    ".c0{stroke:#1667b8}.c1{stroke:#c2571a;stroke-dasharray:5 3}"
    ".c2{stroke:#777;stroke-dasharray:2 3}.grid{stroke:#e4e4e4}svg .grid{stroke-width:1}"
    "table{border-collapse:collapse}td,th{padding:.15rem .9rem .15rem 0;text-align:left;"
    "vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "figure{display:inline-block;margin:0 1.5rem 1rem 0;vertical-align:top}"
    "figure img{width:8rem;image-rendering:pixelated}figcaption{max-width:16rem}";

/// For HTML, in text and between double quotes.
std::string escaped(const std::string& text) {
  std::string html;
  for (const char c : one_line(text)) {
    const char* entity = c == '&'   ? "&amp;"
                         : c == '<' ? "&lt;"
                         : c == '>' ? "&gt;"
                         : c == '"' ? "&quot;"
                                    : nullptr;
    entity != nullptr ? html += entity : html += c;
  }
  return html;
}

/// RFC 4648, section 4.
std::string base64(const std::string& bytes) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k)
      text += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

struct Point {
  double x, y;
};

/// A number of the log over its steps.
struct Curve {
  const char* key;
  const char* name;
  double (*shown)(double) = [](double value) { return value; };
};

/// At most kMost points, means of equally many each. What is not finite is left out.
std::vector<Point> points_of(const std::vector<json>& log, const Curve& curve) {
  constexpr size_t kMost = 500;
  std::vector<Point> all, means;
  for (const json& entry : log) {
    const json& value = entry.value(curve.key, json());
    if (value.is_number())
      all.push_back({entry["step"].get<double>(), curve.shown(value.get<double>())});
  }
  const size_t each = (all.size() + kMost - 1) / kMost;
  for (size_t begin = 0; begin < all.size(); begin += each) {
    const size_t end = std::min(begin + each, all.size());
    Point sum{0, 0};
    for (size_t i = begin; i < end; ++i) sum = {sum.x + all[i].x, sum.y + all[i].y};
    const auto count = static_cast<double>(end - begin);
    means.push_back({sum.x / count, sum.y / count});
  }
  return means;
}

/// One axis: values from low to high at places from begin to end.
struct Axis {
  double low, high, begin, end;

  void hold(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  /// Roundings are no change, and no ticks could be told apart in them.
  bool is_level() const { return high - low <= 1e-9 * std::max(std::abs(low), std::abs(high)); }
  double place(double value) const {
    return begin + (end - begin) * (is_level() ? 0.5 : (value - low) / (high - low));
  }
  /// At most seven round values: 1, 2 or 5 times a power of ten apart.
  std::vector<double> ticks() const {
    if (is_level()) return {low};
    const double power = std::pow(10, std::floor(std::log10((high - low) / 6)));
    const double wanted = (high - low) / 6 / power;
    const double step = power * (wanted > 5 ? 10 : wanted > 2 ? 5 : wanted > 1 ? 2 : 1);
    std::vector<double> values;
    for (double k = std::ceil(low / step); k * step <= high; ++k) values.push_back(k * step + 0.0);
    return values;
  }
};

/// An SVG of up to three curves; empty if fewer than two steps were logged.
std::string chart(const char* title, const std::vector<Curve>& curves,
                  const std::vector<json>& log) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Axis x{kInfinity, -kInfinity, 58, 440}, y{kInfinity, -kInfinity, 196, 34};
  std::vector<std::vector<Point>> lines;
  for (const Curve& curve : curves) {
    lines.push_back(points_of(log, curve));
    for (const Point& point : lines.back()) {
      x.hold(point.x);
      y.hold(point.y);
    }
  }
  if (lines[0].size() < 2) return "";
  std::string svg = concat("<svg viewBox=\"0 0 460 224\" role=\"img\" aria-label=\"", title,
                           "\"><text class=\"title\" x=\"58\" y=\"18\">", title, "</text>\n");
  for (const double value : y.ticks())
    svg += formatted(
        "<line class=\"grid\" x1=\"58\" x2=\"440\" y1=\"%.1f\" y2=\"%.1f\"/>"
        "<text x=\"52\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
        y.place(value), y.place(value), y.place(value) + 4, value);
  for (const double value : x.ticks())
    svg += formatted("<text x=\"%.1f\" y=\"214\" text-anchor=\"middle\">%.8g</text>\n",
                     x.place(value), value);
  for (size_t i = 0; i < curves.size(); ++i) {
    svg += formatted("<path class=\"c%zu\" d=\"", i);
    for (size_t k = 0; k < lines[i].size(); ++k)
      svg += formatted("%c%.1f %.1f", k == 0 ? 'M' : 'L', x.place(lines[i][k].x),
                       y.place(lines[i][k].y));
    svg += "\"/>\n";
    if (curves.size() == 1) continue;
    const double left = 440 - 90 * static_cast<double>(curves.size() - i);
    svg +=
        formatted("<path class=\"c%zu\" d=\"M%.1f 14h20\"/><text x=\"%.1f\" y=\"18\">%s</text>\n",
                  i, left, left + 25, curves[i].name);
  }
  return svg + "</svg>\n";
}

std::string charts(const std::vector<json>& log) {
  const auto percent = [](double share) { return 100 * share; };
  const auto power = [](double exponent) { return std::exp(exponent); };
  const std::string all =
      chart("Loss, nats", {{"loss", "loss"}, {"loss_floor", "floor"}, {"loss_chance", "chance"}},
            log) +
      chart("Right captions within the batch, %", {{"in_batch_top1", "", percent}}, log) +
      chart("Scale of the logits, exp(logit_scale)", {{"logit_scale", "", power}}, log) +
      chart("Learning rate", {{"lr", ""}}, log) +
      chart("Norm of the gradient", {{"grad_norm", ""}}, log) +
      chart("Pairs per second", {{"pairs_per_s", ""}}, log);
  return all.empty() ? "" : concat("<div class=\"charts\">\n", all, "</div>\n");
}

std::string row(const std::string& name, const std::string& value, const std::string& note = "") {
  return concat("<tr><th>", escaped(name), "</th><td class=\"n\">", escaped(value), "</td><td>",
                escaped(note), "</td></tr>\n");
}

std::string results(const std::vector<json>& log) {
  const auto last = std::find_if(log.rbegin(), log.rend(),
                                 [](const json& entry) { return entry.contains("eval"); });
  if (last == log.rend()) return "";
  std::string rows;
  for (const auto& [key, value] : (*last)["eval"].items()) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', ' ');
    const json& share = value.is_object() ? value.at("value") : value;
    const std::string note =
        value.is_object()
            ? concat(value.at("correct"), " of ", value.at("tried"),
                     formatted(", 95 %%: %.1f to %.1f %%", 100 * value.at("low").get<double>(),
                               100 * value.at("high").get<double>()))
            : "";
    rows += row(name, formatted("%.2f %%", 100 * share.get<double>()), note);
  }
  return concat("<h2>Evaluation after step ", (*last)["step"], "</h2>\n<table>\n", rows,
                "</table>\n");
}

std::string samples(const fs::path& folder) {
  std::error_code absent;
  if (!fs::exists(folder / kSampleCaptions, absent)) return "";
  const json told = json::parse(read_file((folder / kSampleCaptions).string(), 1 << 20));
  std::string html = concat("<h2>Pictures after step ", told.at("step"), "</h2>\n<div>\n");
  for (const json& picture : told.at("pictures")) {
    const std::string file = (folder / picture.at("file").get<std::string>()).string();
    html += concat("<figure><img alt=\"", escaped(picture.at("shows").get<std::string>()),
                   "\" src=\"data:image/png;base64,", base64(read_file(file, 1 << 24)),
                   "\"/><figcaption>");
    for (const json& guess : picture.at("guesses"))
      html += concat(formatted("%.1f %%  ", 100 * guess.at("probability").get<double>()),
                     escaped(guess.at("caption").get<std::string>()), "<br/>");
    html += "</figcaption></figure>\n";
  }
  return html + "</div>\n";
}

std::string options_table(const json& config) {
  std::string rows;
  for (const auto& [name, value] : config.items())
    rows += row("--" + name, value.is_string() ? value.get<std::string>() : value.dump());
  return concat("<details><summary>Options</summary>\n<table>\n", rows, "</table>\n</details>\n");
}

}  // namespace

void write_report(const std::string& run) {
  const fs::path folder(run);
  const std::string path = (folder / "report.html").string();
  try {
    const std::vector<json> log = read_log(run);
    const std::string name = escaped(fs::absolute(folder).lexically_normal().filename().string());
    write_file(
        path, concat("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>",
                     name, "</title><style>", kStyle, "</style></head>\n<body>\n<h1>", name,
                     "</h1>\n", charts(log), results(log), samples(folder / "samples"),
                     options_table(json::parse(read_file((folder / kRunConfig).string(), 1 << 20))),
                     "</body></html>\n"));
  } catch (const json::exception& error) {
    throw Error(concat("cannot write ", path, ": ", error.what()));
  }
}

}  // namespace clip

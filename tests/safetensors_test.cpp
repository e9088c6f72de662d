#include "models/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "models/atomic_file.h"
#include "tests/error_message.h"
#include "tests/scratch_folder.h"

namespace clip {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kWholeFile = 1 << 30;

// A file made by hand: length, header, data.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + data;
}

std::string refusal(const ScratchFolder& folder, const std::string& bytes) {
  const std::string path = folder.write("some.safetensors", bytes);
  return error_message([&] { SafetensorsFile file(path); });
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::vector<T> read_all(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor* entry = file.find(name);
  int64_t count = 1;
  for (int64_t size : entry->shape) count *= size;
  std::vector<T> values(static_cast<size_t>(count));
  file.read(*entry, name, kDTypeOf<T>, values.data());
  return values;
}

TEST(Safetensors, RoundTripKeepsEveryBit) {
  const ScratchFolder folder;
  const std::string path = folder.path("a.safetensors");
  const float nan_with_payload = std::bit_cast<float>(0x7fc12345u);
  const std::vector<float> f32 = {0.f, -0.f, 1e-45f, nan_with_payload, -INFINITY, 3.4028235e38f};
  const std::vector<double> f64 = {1.0 / 3, -0.0, 5e-324};
  const std::vector<uint16_t> bf16 = {0x3f80, 0xffff};
  const std::vector<int32_t> i32 = {INT32_MIN, -1, 7};
  const std::vector<uint8_t> u8 = {0, 255, 3};
  const float scalar = 4.5f;
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {"text", "a \"b\"\n\xc3\xbc"}};
  write_safetensors(path,
                    {{"f32", DType::kF32, {2, 3}, f32.data()},
                     {"u8", DType::kU8, {3}, u8.data()},
                     {"f64", DType::kF64, {3, 1}, f64.data()},
                     {"i32", DType::kI32, {1, 1, 3}, i32.data()},
                     {"bf16", DType::kBF16, {2}, bf16.data()},
                     {"scalar", DType::kF32, {}, &scalar},
                     {"empty", DType::kF32, {0, 4}, nullptr}},
                    metadata);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.entries().size(), 7u);
  const auto expect_entry = [&](const char* name, const char* dtype, std::vector<int64_t> shape,
                                const std::string& bytes) {
    const StoredTensor* entry = file.find(name);
    ASSERT_NE(entry, nullptr) << name;
    EXPECT_EQ(entry->dtype, dtype) << name;
    EXPECT_EQ(entry->shape, shape) << name;
    EXPECT_EQ(
        std::string(reinterpret_cast<const char*>(entry->data), static_cast<size_t>(entry->bytes)),
        bytes)
        << name;
  };
  expect_entry("f32", "F32", {2, 3}, bytes_of(f32));
  expect_entry("f64", "F64", {3, 1}, bytes_of(f64));
  expect_entry("bf16", "BF16", {2}, bytes_of(bf16));
  expect_entry("i32", "I32", {1, 1, 3}, bytes_of(i32));
  expect_entry("u8", "U8", {3}, bytes_of(u8));
  expect_entry("scalar", "F32", {}, bytes_of(std::vector<float>{scalar}));
  expect_entry("empty", "F32", {0, 4}, "");
  EXPECT_EQ(file.find("other"), nullptr);
  EXPECT_EQ(bytes_of(read_all<float>(file, "f32")), bytes_of(f32));
  EXPECT_EQ(bytes_of(read_all<double>(file, "f64")), bytes_of(f64));
}

TEST(Safetensors, WritesAlignedDataInTheOrderOfNames) {
  const ScratchFolder folder;
  const std::string path = folder.path("a.safetensors");
  const std::vector<float> first = {1, 2, 3}, second = {4};
  write_safetensors(
      path, {{"b", DType::kF32, {1}, second.data()}, {"a", DType::kF32, {3}, first.data()}}, {});
  const std::string expected_header = R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},)"
                                      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})";
  std::string bytes = read_file(path, kWholeFile);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(bytes.substr(8, expected_header.size()), expected_header);
  EXPECT_EQ(bytes.substr(8 + length), bytes_of(first) + bytes_of(second));
}

TEST(Safetensors, AsksForEachTensorWhenItsTurnComes) {
  const ScratchFolder folder;
  const std::string path = folder.path("a.safetensors");
  std::vector<std::string> asked;
  std::vector<SafetensorsItem> items;
  for (const std::string name : {"c", "a", "b"})
    items.push_back({.name = name, .shape = {2}, .copy_to_host = [&asked, name](void* host) {
                       asked.push_back(name);
                       const float values[2] = {static_cast<float>(name[0]), 1.f};
                       std::memcpy(host, values, sizeof values);
                     }});
  write_safetensors(path, items, {});
  EXPECT_EQ(asked, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(read_all<float>(SafetensorsFile(path), "b"), (std::vector<float>{'b', 1.f}));
}

TEST(Safetensors, ReadsEveryHalfExactly) {
  const ScratchFolder folder;
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const SafetensorsFile file(folder.write(
      "a", file_of(R"({"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}})",
                   bytes_of(halves))));
  const std::vector<float> as_float = read_all<float>(file, "h");
  const std::vector<double> as_double = read_all<double>(file, "h");
  for (int i = 0; i < 1 << 16; ++i) {
    const int exponent = (i >> 10) & 31, mantissa = i & 1023;
    double expected =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = mantissa == 0 ? INFINITY : NAN;
    if (i >> 15) expected = -expected;
    const size_t at = static_cast<size_t>(i);
    ASSERT_TRUE(std::isnan(expected) ? std::isnan(as_float[at]) && std::isnan(as_double[at])
                                     : as_float[at] == expected && as_double[at] == expected)
        << i << ": " << as_float[at] << ", " << expected;
    ASSERT_EQ(std::signbit(as_float[at]), i >> 15 == 1) << i;
  }
}

TEST(Safetensors, ConvertsBetweenFloatWidths) {
  const ScratchFolder folder;
  const std::vector<double> doubles = {1.0 / 3, 1e300};
  const std::vector<float> floats = {1.0f / 3, -2.f};
  const std::vector<uint16_t> bf16 = {0x3f80, 0xc049};  // 1, -3.140625
  const SafetensorsFile file(
      folder.write("a", file_of(R"({"d":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},)"
                                R"("f":{"dtype":"F32","shape":[2],"data_offsets":[16,24]},)"
                                R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}})",
                                bytes_of(doubles) + bytes_of(floats) + bytes_of(bf16))));
  EXPECT_EQ(read_all<float>(file, "d"), (std::vector<float>{1.0f / 3, INFINITY}));
  EXPECT_EQ(read_all<double>(file, "f"), (std::vector<double>{double{1.0f / 3}, -2.0}));
  EXPECT_EQ(read_all<float>(file, "b"), (std::vector<float>{1.f, -3.140625f}));
}

TEST(Safetensors, ReadsDataAtOddAddresses) {
  const ScratchFolder folder;
  std::string header = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},)"
                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const std::vector<float> values = {1.5f, -7.f};
  for (int i = 0; i < 4; ++i, header += ' ')
    EXPECT_EQ(read_all<float>(
                  SafetensorsFile(folder.write("a", file_of(header, "u" + bytes_of(values)))), "x"),
              values);
}

TEST(Safetensors, RefusesToReadIntegersAsFloats) {
  const ScratchFolder folder;
  const SafetensorsFile file(folder.write(
      "a",
      file_of(R"({"x":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", std::string(8, '\0'))));
  float value = 0;
  const std::string message =
      error_message([&] { file.read(*file.find("x"), "x", DType::kF32, &value); });
  EXPECT_TRUE(says(message, file.path(), "\"x\"", "F32 or F64", "has I64")) << message;
}

TEST(Safetensors, RefusesAFileThatIsCutShortAnywhere) {
  const ScratchFolder folder;
  const std::string path = folder.path("whole");
  const std::vector<float> values = {1, 2, 3};
  write_safetensors(path, {{"x", DType::kF32, {3}, values.data()}}, {{"format", "pt"}});
  const std::string whole = read_file(path, kWholeFile);
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string message = refusal(folder, whole.substr(0, length));
    EXPECT_TRUE(says(message, "some.safetensors")) << length << ": " << message;
  }
  const std::string message = refusal(folder, whole + "x");
  EXPECT_TRUE(says(message, "the tensors end at byte 12", "the file at 13")) << message;
}

TEST(Safetensors, SurvivesEveryDamagedByteOfAHeader) {
  const ScratchFolder folder;
  const std::string path = folder.path("whole");
  const std::vector<float> values = {1, 2, 3};
  write_safetensors(path, {{"x", DType::kF32, {3}, values.data()}}, {{"k", "v"}});
  const std::string whole = read_file(path, kWholeFile);
  int refused = 0;
  for (size_t at = 0; at + 12 < whole.size(); ++at) {
    for (const char damage : {'\0', '\xff', '"', '{', '}', '9', ',', '\x80'}) {
      std::string bytes = whole;
      bytes[at] = damage;
      const std::string damaged = folder.write("some.safetensors", bytes);
      try {
        const SafetensorsFile file(damaged);
        for (const auto& [name, entry] : file.entries()) {
          ASSERT_GE(entry.data, file.entries().begin()->second.data);
          ASSERT_LE(entry.bytes, 12);
        }
      } catch (const Error& error) {
        ++refused;
        ASSERT_TRUE(says(error.what(), "some.safetensors")) << error.what();
      }
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(Safetensors, SaysWhatIsWrongWithAHeader) {
  const ScratchFolder folder;
  const std::string eight(8, '\0');
  struct Case {
    std::string header, data;
    std::vector<std::string> said;
  };
  const std::vector<Case> cases = {
      {"{", "", {"(header)", "no valid JSON"}},
      {"[1]", "", {"no JSON object"}},
      {"{\"\xff\": 1}", "", {"no valid JSON"}},
      {R"({"x":1})", "", {"\"x\"", "an object expected"}},
      {R"({"x":{"shape":[2],"data_offsets":[0,8]}})", eight, {"\"x\"", "has no dtype"}},
      {R"({"x":{"dtype":"F32","data_offsets":[0,8]}})", eight, {"\"x\"", "has no shape"}},
      {R"({"x":{"dtype":"F32","shape":[2]}})", eight, {"\"x\"", "has no data_offsets"}},
      {R"({"x":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", eight, {"\"x\"", "\"F33\""}},
      {R"({"x":{"dtype":3,"shape":[2],"data_offsets":[0,8]}})", eight, {"has dtype 3"}},
      {R"({"x":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", eight, {"has shape 2"}},
      {R"({"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", eight, {"shape [-2]"}},
      {R"({"x":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", eight, {"shape [2.0]"}},
      {R"({"x":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})",
       eight,
       {"shape [4611686018427387905]", "overflows"}},
      {R"({"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
       "",
       {"overflows"}},
      {R"({"x":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})",
       eight,
       {"shape [18446744073709551615]", "whole numbers"}},
      {R"({"x":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}})",
       eight,
       {"\"x\"", "whole numbers"}},
      {R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
       eight,
       {"F32 and shape [3]", "needs 12 bytes, has 8"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})", eight, {"[begin, end]"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", eight, {"bytes 8 to 0"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", eight, {"whole numbers"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", eight, {"4 to 12", "the 8"}},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight, {"\"x\"", "gap"}},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", eight, {"end at byte 4"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       eight,
       {"\"y\" begins at byte 4", "inside"}},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       eight,
       {"\"x\" occurs twice"}},
      {R"({"__metadata__":{"a":1}})", "", {"__metadata__ \"a\"", "string"}},
      {R"({"__metadata__":[]})", "", {"__metadata__ must be an object"}},
      {std::string(5000, '['), "", {"nested"}},
  };
  for (const Case& c : cases) {
    const std::string message = refusal(folder, file_of(c.header, c.data));
    EXPECT_TRUE(says(message, "some.safetensors")) << c.header << ": " << message;
    for (const std::string& part : c.said)
      EXPECT_TRUE(says(message, part)) << c.header << ": " << message << " lacks " << part;
  }
}

TEST(Safetensors, RefusesHeadersOfAbsurdLength) {
  const ScratchFolder folder;
  for (const uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}}) {
    std::string bytes(16, ' ');
    std::memcpy(bytes.data(), &length, sizeof length);
    const std::string message = refusal(folder, bytes);
    EXPECT_TRUE(says(message, "its header would be " + std::to_string(length))) << message;
  }
}

TEST(Safetensors, RefusesWhatIsNoRegularFile) {
  const ScratchFolder folder;
  const auto opened = [](const std::string& path) {
    return error_message([&] { SafetensorsFile file(path); });
  };
  EXPECT_TRUE(says(opened(folder.path("none")), "none", "No such file"));
  EXPECT_TRUE(says(opened(folder.path()), folder.path(), "a folder"));
  ASSERT_EQ(::mkfifo(folder.path("pipe").c_str(), 0600), 0);
  EXPECT_TRUE(says(opened(folder.path("pipe")), "pipe", "no regular file"));
  EXPECT_TRUE(says(opened("/dev/zero"), "/dev/zero", "no regular file"));
  EXPECT_TRUE(says(refusal(folder, "an entirely different kind of file"), "no safetensors file"));
}

TEST(Safetensors, RefusesToWriteANameTwice) {
  const ScratchFolder folder;
  const float value = 1;
  const SafetensorsItem item{"x", DType::kF32, {1}, &value};
  const std::string path = folder.path("a");
  const std::string message = error_message([&] { write_safetensors(path, {item, item}, {}); });
  EXPECT_TRUE(says(message, path, "\"x\" is taken")) << message;
  const std::string reserved = error_message([&] {
    write_safetensors(path, {{"__metadata__", DType::kF32, {1}, &value}}, {});
  });
  EXPECT_TRUE(says(reserved, path, "__metadata__")) << reserved;
  const std::string broken = error_message([&] {
    write_safetensors(path, {{"\xff", DType::kF32, {1}, &value}}, {});
  });
  EXPECT_TRUE(says(broken, path, "UTF-8")) << broken;
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Safetensors, AMappedFileOutlivesItsReplacement) {
  const ScratchFolder folder;
  const std::string path = folder.path("a");
  const std::vector<float> old_values(5000, 1.f);
  write_safetensors(path, {{"x", DType::kF32, {5000}, old_values.data()}}, {});
  const SafetensorsFile file(path);
  write_safetensors(path, {}, {});
  EXPECT_EQ(read_all<float>(file, "x"), old_values);
}

}  // namespace
}  // namespace clip

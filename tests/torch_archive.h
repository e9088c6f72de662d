// Torch files made by hand, for tests of what their reader refuses.
#pragma once

#include <string>
#include <string_view>

#include "models/zip_file.h"
#include "tests/scratch_folder.h"

namespace clip {

/// A pickle being written, opcode by opcode.
class PickleBytes {
 public:
  PickleBytes& raw(std::string_view bytes) {
    text_ += bytes;
    return *this;
  }
  PickleBytes& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  PickleBytes& string(const std::string& value) {
    return raw("X").number(value.size(), 4).raw(value);
  }
  PickleBytes& integer(int64_t value) {
    return raw("\x8a\x08").number(static_cast<uint64_t>(value), 8);
  }
  PickleBytes& tuple(const std::vector<int64_t>& values) {
    raw("(");
    for (const int64_t value : values) integer(value);
    return raw("t");
  }
  PickleBytes& number(uint64_t value, size_t width) {
    text_.append(reinterpret_cast<const char*>(&value), width);
    return *this;
  }
  /// A tensor of storage "0".
  PickleBytes& tensor(const std::string& storage, int64_t elements, int64_t offset,
                      const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
    global("torch._utils", "_rebuild_tensor_v2").raw("((").string("storage");
    global("torch", storage).string("0").string("cpu").integer(elements).raw("tQ");
    return integer(offset).tuple(shape).tuple(strides).raw("tR");
  }
  const std::string& bytes() const { return text_; }

 private:
  std::string text_ = "\x80\x02";
};

/// {"x": <what `value` pushes>}
inline std::string dict_of(const PickleBytes& value) {
  return PickleBytes().raw("}").string("x").raw(value.bytes().substr(2)).raw("s.").bytes();
}

/// Writes "archive/data.pkl" and "archive/data/0"; returns the path.
inline std::string write_torch_archive(const ScratchFolder& folder, const std::string& pickle,
                                       const std::string& storage = std::string(24, '\0')) {
  const std::string path = folder.path("model.pt");
  ZipWriter zip(path);
  for (const auto& [name, bytes] :
       {std::pair<std::string, std::string>("archive/data.pkl", pickle),
        std::pair<std::string, std::string>("archive/data/0", storage)}) {
    zip.begin(name, std::ssize(bytes));
    zip.write(bytes.data(), std::ssize(bytes));
  }
  zip.commit();
  return path;
}

}  // namespace clip

#include "models/torch_file.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "engine/check.h"
#include "models/pickle.h"
#include "models/strict_json.h"

namespace clip {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxPickle = 1 << 24;

// Storage classes and our names of their elements' types.
const std::map<std::string, std::string>& storage_dtypes() {
  static const std::map<std::string, std::string> dtypes = {
      {"torch.FloatStorage", "F32"}, {"torch.DoubleStorage", "F64"},
      {"torch.HalfStorage", "F16"},  {"torch.BFloat16Storage", "BF16"},
      {"torch.LongStorage", "I64"},  {"torch.IntStorage", "I32"},
      {"torch.ShortStorage", "I16"}, {"torch.CharStorage", "I8"},
      {"torch.ByteStorage", "U8"},   {"torch.BoolStorage", "BOOL"}};
  return dtypes;
}

constexpr const char* kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr const char* kRebuildParameter = "torch._utils._rebuild_parameter";

bool may_be_called(const std::string& name) {
  static const std::set<std::string> names = {kRebuildTensor, kRebuildParameter,
                                              "collections.OrderedDict", "torch.Size"};
  return names.contains(name) || name.starts_with("torch.jit._pickle.");
}

bool may_be_made(const std::string& name) { return name.starts_with("__torch__."); }

// A torch.save archive holds "<any name>/data.pkl" and "<that name>/data/<key>".
std::string prefix_of(const ZipFile& zip) {
  constexpr std::string_view kPickle = "/data.pkl";
  for (const auto& [name, bytes] : zip.members())
    if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size())
      return name.substr(0, name.size() - kPickle.size() + 1);
  throw Error(concat(zip.path(), ": a zip archive without data.pkl, so no torch file"));
}

bool is_tensor(const PickleValue& value) {
  return value.kind == Kind::kCall &&
         (value.text == kRebuildTensor || value.text == kRebuildParameter);
}

}  // namespace

/// Finds the tensors in a pickle's values and their bytes in the archive.
class TensorCollector {
 public:
  TensorCollector(TorchFile& file, const std::string& prefix) : file_(file), prefix_(prefix) {}

  // name: dotted, with a dot at its end if not empty
  void collect(const PickleValue& container, const std::string& name, int depth = 0) {
    constexpr int kMaxDepth = 64, kMaxVisits = 1'000'000;
    CLIP_CHECK(depth < kMaxDepth && ++visits_ < kMaxVisits, file_.path(),
               ": its containers are nested too deeply, or contain themselves");
    if (container.kind == Kind::kObject) file_.classes_[name] = container.text;
    for (size_t i = 0; i + 1 < container.items.size(); i += 2) {
      const PickleValue& key = *container.items[i];
      const PickleValue& value = *container.items[i + 1];
      if (key.kind != Kind::kString) continue;
      const std::string full = name + key.text;
      if (is_tensor(value)) {
        CLIP_CHECK(file_.entries_.emplace(full, tensor(value, full)).second, file_.path(),
                   ": the tensor ", shown(full), " occurs twice");
      } else if (value.kind == Kind::kObject) {
        collect(value, full + '.', depth + 1);
      }
    }
  }

 private:
  template <class... Parts>
  void check(bool condition, const std::string& name, const Parts&... problem) const {
    CLIP_CHECK(condition, file_.path(), ": tensor ", shown(name), " ", problem...);
  }

  int64_t whole_number(const PickleValue& value, const std::string& name) const {
    check(value.kind == Kind::kInt && value.integer >= 0, name,
          "is described by something that is no whole number from 0");
    return value.integer;
  }

  std::vector<int64_t> sizes(const PickleValue& value, const std::string& name) const {
    check(value.kind == Kind::kTuple && value.items.size() <= 16, name, "has no list of sizes");
    std::vector<int64_t> result;
    for (const PickleValue* size : value.items) result.push_back(whole_number(*size, name));
    return result;
  }

  // _rebuild_tensor_v2(storage, offset, size, stride, ...), or _rebuild_parameter of one
  StoredTensor tensor(const PickleValue& call, const std::string& name) const {
    const auto& given = call.items;
    if (call.text == kRebuildParameter) {
      check(!given.empty() && given[0]->kind == Kind::kCall && given[0]->text == kRebuildTensor,
            name, "is a parameter of no tensor");
      return tensor(*given[0], name);
    }
    check(given.size() >= 4 && given[0]->kind == Kind::kReference, name, "has no storage");
    StoredTensor tensor;
    const ZipFile::Bytes storage = find_storage(*given[0]->items[0], name, tensor.dtype);
    const int64_t offset = whole_number(*given[1], name);
    tensor.shape = sizes(*given[2], name);
    tensor.strides = sizes(*given[3], name);
    place(tensor, storage, offset, name);
    return tensor;
  }

  // ('storage', class, key, device, elements)
  ZipFile::Bytes find_storage(const PickleValue& id, const std::string& name,
                              std::string& dtype) const {
    check(id.kind == Kind::kTuple && id.items.size() >= 5 && id.items[0]->text == "storage" &&
              id.items[2]->kind == Kind::kString,
          name, "refers to something that is no storage");
    const auto known = storage_dtypes().find(id.items[1]->text);
    check(known != storage_dtypes().end(), name, "is kept as ", shown(id.items[1]->text),
          ", which is not read");
    dtype = known->second;
    const std::string member = prefix_ + "data/" + id.items[2]->text;
    const auto& members = file_.zip_.members();
    const auto found = members.find(member);
    check(found != members.end(), name, "needs the member ", shown(member),
          ", which is missing or compressed");
    int64_t bytes = element_bytes(dtype);
    const bool fits = !__builtin_mul_overflow(bytes, whole_number(*id.items[4], name), &bytes);
    check(fits && bytes == std::ssize(found->second), name, "needs ", id.items[4]->integer,
          " numbers of ", dtype, ", its storage ", shown(member), " has ", found->second.size(),
          " bytes");
    return found->second;
  }

  // Checks that all elements lie within the storage and none is seen twice.
  void place(StoredTensor& tensor, ZipFile::Bytes storage, int64_t offset,
             const std::string& name) const {
    const int64_t width = element_bytes(tensor.dtype), available = std::ssize(storage) / width;
    check(tensor.strides.size() == tensor.shape.size(), name, "has ", tensor.shape.size(),
          " sizes and ", tensor.strides.size(), " strides");
    int64_t count = 1, last = offset, plain = 1;
    bool fits = true, is_plain = true;
    for (size_t axis = tensor.shape.size(); axis-- > 0;) {
      const int64_t size = tensor.shape[axis], stride = tensor.strides[axis];
      int64_t reach = 0;
      is_plain = is_plain && (size == 1 || stride == plain);
      fits = fits && !__builtin_mul_overflow(count, size, &count) &&
             !__builtin_mul_overflow(std::max<int64_t>(size - 1, 0), stride, &reach) &&
             !__builtin_add_overflow(last, reach, &last);
      if (fits) plain = count;
    }
    check(fits && count <= available && (count == 0 || last < available), name, "of shape ",
          shown(tensor.shape), " and strides ", shown(tensor.strides), " from element ", offset,
          " lies outside its storage of ", available, " elements");
    if (is_plain || count == 0) tensor.strides.clear();
    tensor.data = storage.data() + (count == 0 ? 0 : offset * width);
    tensor.bytes = count == 0 ? 0 : (last + 1 - offset) * width;
  }

  TorchFile& file_;
  const std::string& prefix_;
  int visits_ = 0;
};

namespace {

bool holds_tensors(const PickleValue& dict) {
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2)
    if (is_tensor(*dict.items[i + 1])) return true;
  return false;
}

// A training checkpoint keeps the weights beside epoch, optimizer and the like.
const PickleValue& state_dict_in(const PickleValue& root, const std::string& path) {
  CLIP_CHECK(root.kind == Kind::kDict, path, ": holds no dict of tensors");
  const PickleValue* nested = root.find("state_dict");
  const PickleValue& state = nested == nullptr ? root : *nested;
  CLIP_CHECK(state.kind == Kind::kDict && holds_tensors(state), path,
             ": holds no tensors, neither at the top nor under \"state_dict\"");
  return state;
}

// Checked before the archive is opened, whose error would not tell what to do.
const MappedFile& checked(const MappedFile& file) {
  const std::string& path = file.path();
  CLIP_CHECK(!file.bytes().empty(), path, ": the file is empty");
  CLIP_CHECK(file.bytes()[0] != std::byte{0x80}, path,
             ": a torch file in the format from before PyTorch 1.6, which is not read; in Python, "
             "torch.save(torch.load(FILE, weights_only=True), NEW) renews it");
  CLIP_CHECK(is_zip(file.bytes()), path, ": no torch file (no zip archive)");
  return file;
}

}  // namespace

TorchFile::TorchFile(const std::string& path) : file_(path), zip_(checked(file_)) {
  const std::string prefix = prefix_of(zip_);
  const auto& members = zip_.members();
  const auto byte_order = members.find(prefix + "byteorder");
  if (byte_order != members.end()) {
    const std::string_view order(reinterpret_cast<const char*>(byte_order->second.data()),
                                 byte_order->second.size());
    CLIP_CHECK(order == "little", path, ": its numbers are ", shown(std::string(order)),
               "-endian, little-endian expected");
  }
  const ZipFile::Bytes text = members.at(prefix + "data.pkl");
  CLIP_CHECK(text.size() <= kMaxPickle, path, ": its pickle of ", text.size(),
             " bytes is larger than the ", kMaxPickle, " that weights need");
  const Pickle pickle(text, path, {may_be_called, may_be_made});
  kind_ = members.contains(prefix + "constants.pkl") ? Kind::kScript : Kind::kStateDict;
  TensorCollector collector(*this, prefix);
  if (kind_ == Kind::kScript) {
    CLIP_CHECK(pickle.root().kind == PickleValue::Kind::kObject, path, ": holds no module");
    collector.collect(pickle.root(), "");
  } else {
    collector.collect(state_dict_in(pickle.root(), path), "");
  }
}

namespace {

/// Opcodes of protocol 2, as far as a state dict needs them.
class PickleText {
 public:
  PickleText() : text_("\x80\x02") {}

  void global(const char* module, const char* name) {
    text_ += concat('c', module, '\n', name, '\n');
  }
  void string(const std::string& value) { put('X', value.size(), 4), text_ += value; }
  void integer(int64_t value) {
    if (value >= 0 && value <= INT32_MAX) {
      put('J', static_cast<uint64_t>(value), 4);
    } else {
      text_ += "\x8a\x08";  // LONG1
      text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
  }
  void boolean(bool value) { text_ += value ? '\x88' : '\x89'; }
  void mark() { text_ += '('; }
  void tuple_of_marked() { text_ += 't'; }
  void empty_tuple() { text_ += ')'; }
  void reference() { text_ += 'Q'; }
  void call() { text_ += 'R'; }
  void set_marked_items() { text_ += 'u'; }
  std::string end() { return text_ + '.'; }

 private:
  void put(char opcode, uint64_t value, size_t width) {
    text_ += opcode;
    text_.append(reinterpret_cast<const char*>(&value), width);
  }
  std::string text_;
};

void describe(PickleText& pickle, const SafetensorsItem& item, size_t key) {
  const std::string dtype = dtype_of(item);
  const auto& dtypes = storage_dtypes();
  const auto storage = std::find_if(dtypes.begin(), dtypes.end(),
                                    [&](const auto& pair) { return pair.second == dtype; });
  int64_t count = 1;
  std::vector<int64_t> strides(item.shape.size());
  for (size_t axis = item.shape.size(); axis-- > 0; count *= item.shape[axis])
    strides[axis] = count;

  pickle.string(item.name);
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.mark();
  pickle.mark();
  pickle.string("storage");
  pickle.global("torch", storage->first.substr(std::string("torch.").size()).c_str());
  pickle.string(std::to_string(key));
  pickle.string("cpu");
  pickle.integer(count);
  pickle.tuple_of_marked();
  pickle.reference();
  pickle.integer(0);
  for (const auto& numbers : {item.shape, strides}) {
    pickle.mark();
    for (const int64_t number : numbers) pickle.integer(number);
    pickle.tuple_of_marked();
  }
  pickle.boolean(false);                        // requires_grad
  pickle.global("collections", "OrderedDict");  // backward hooks
  pickle.empty_tuple();
  pickle.call();
  pickle.tuple_of_marked();
  pickle.call();
}

}  // namespace

void write_torch_file(const std::string& path, const std::vector<SafetensorsItem>& items) {
  PickleText pickle;
  pickle.global("collections", "OrderedDict");
  pickle.empty_tuple();
  pickle.call();
  pickle.mark();
  for (size_t i = 0; i < items.size(); ++i) describe(pickle, items[i], i);
  pickle.set_marked_items();
  const std::string text = pickle.end();

  ZipWriter zip(path);
  const auto write_member = [&](const std::string& name, std::string_view bytes) {
    zip.begin("archive/" + name, std::ssize(bytes));
    zip.write(bytes.data(), std::ssize(bytes));
  };
  write_member("data.pkl", text);
  write_member("byteorder", "little");
  for (size_t i = 0; i < items.size(); ++i) {
    zip.begin("archive/data/" + std::to_string(i), stored_bytes(items[i]));
    write_numbers(items[i], [&](const void* data, int64_t bytes) { zip.write(data, bytes); });
  }
  write_member("version", "3\n");
  zip.commit();
}

}  // namespace clip

// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/json.h"

#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace braise::io {
namespace {

using nlohmann::json;

/// Builds the value from what RapidJSON's reader tells of the text, piece by piece.
class Builder {
 public:
  bool Null() { return put(nullptr); }
  bool Bool(bool value) { return put(value); }
  bool Int(int value) { return put(value); }
  bool Uint(unsigned value) { return put(value); }
  bool Int64(std::int64_t value) { return put(value); }
  bool Uint64(std::uint64_t value) { return put(value); }
  bool Double(double value) { return put(value); }
  bool RawNumber(const char*, rapidjson::SizeType, bool) { return false; }  // only where a reader is asked for it
  bool String(const char* text, rapidjson::SizeType length, bool) { return put(std::string(text, length)); }
  bool StartObject() { return open(json::object()); }
  bool StartArray() { return open(json::array()); }
  bool Key(const char* text, rapidjson::SizeType length, bool) {
    key_.assign(text, length);
    return true;
  }
  bool EndObject(rapidjson::SizeType) { return close(); }
  bool EndArray(rapidjson::SizeType) { return close(); }

  json take() { return std::move(root_); }

 private:
  bool put(json value) {
    add(std::move(value));
    return true;
  }
  bool open(json value) {
    open_.push_back(&add(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  /// Nothing is added beside an open value, so that pointers to those stay good.
  json& add(json value) {
    if (open_.empty()) return root_ = std::move(value);
    json& within = *open_.back();
    if (within.is_array()) return within.get_ref<json::array_t&>().emplace_back(std::move(value));
    // Our own files have their keys sorted, so that each belongs at the end.
    auto& object = within.get_ref<json::object_t&>();
    return object.insert_or_assign(object.end(), std::move(key_), std::move(value))->second;
  }

  json root_;
  std::vector<json*> open_;
  std::string key_;
};

}  // namespace

json parse_json(std::string_view text) {
  constexpr unsigned kFlags =
      rapidjson::kParseFullPrecisionFlag | rapidjson::kParseValidateEncodingFlag | rapidjson::kParseIterativeFlag;
  rapidjson::MemoryStream stream(text.data(), text.size());
  rapidjson::Reader reader;
  Builder builder;
  const bool is_json = !reader.Parse<kFlags>(stream, builder).IsError();
  // The reader takes a zero byte for the end.
  return is_json && stream.Tell() == text.size() ? builder.take() : json(json::value_t::discarded);
}

}  // namespace braise::io

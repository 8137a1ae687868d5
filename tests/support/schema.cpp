// SPDX-License-Identifier: Apache-2.0
#include "tests/support/schema.h"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "schemas/schemas.h"

namespace braise::test {

std::string schema_faults(const nlohmann::json& value, const nlohmann::json& schema) {
  using Adapter = valijson::adapters::NlohmannJsonAdapter;
  valijson::Schema parsed;
  const valijson::SchemaParser::FunctionPtrs<Adapter>::FetchDoc fetch = [](const std::string& uri) {
    return &schemas::schema(uri.substr(uri.rfind('/') + 1));
  };
  const valijson::SchemaParser::FunctionPtrs<Adapter>::FreeDoc keep = [](const nlohmann::json*) {};
  valijson::SchemaParser().populateSchema(Adapter(schema), parsed, fetch, keep);
  valijson::ValidationResults results;
  valijson::Validator validator(valijson::Validator::kStrongTypes);
  try {
    if (validator.validate(parsed, Adapter(value), &results)) return {};
  } catch (const std::runtime_error& error) {
    return std::string(error.what()) + "\n";  // it looks for the format of what is no text
  }
  std::string text;
  valijson::ValidationResults::Error error;
  while (results.popError(error)) {
    for (const std::string& part : error.context) text += part;
    text += ": " + error.description + "\n";
  }
  return text;
}

std::string schema_faults(const nlohmann::json& value, const char* schema_name) {
  return schema_faults(value, schemas::schema(schema_name));
}

}  // namespace braise::test

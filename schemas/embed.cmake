# Writes OUTPUT, a C++ source that holds the text of every file in FILES as a raw string literal.
set(text "#include \"schemas/schemas.h\"\n\nnamespace braise::schemas {\nconst EmbeddedSchema kEmbedded[] = {\n")
foreach(file IN LISTS FILES)
  file(READ ${file} content)
  get_filename_component(name ${file} NAME)
  string(APPEND text "    {\"${name}\", R\"~schema~(${content})~schema~\"},\n")
endforeach()
string(APPEND text "    {nullptr, nullptr},\n};\n}  // namespace braise::schemas\n")
file(WRITE ${OUTPUT} "${text}")

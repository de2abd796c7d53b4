#!lua flags=allow-oom
-- Delete dead jobs by name.
-- KEYS none beyond the fixed ones
-- ARGV 2.. the ids (at most 1,000)
-- Returns how many were deleted.
local ids = {}
for i = 2, #ARGV do
  if call('ZREM', DEAD, ARGV[i]) == 1 then ids[#ids + 1] = ARGV[i] end
end
forget(ids)
return #ids

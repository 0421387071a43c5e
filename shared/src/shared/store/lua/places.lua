-- places: of each of the model's tasks its place among the waiting ones, 1 is next; false for one that does not wait.
local places, known = {}, {tasks = {}}
for waiting_id in string.gmatch(args.tasks, '%S+') do
  places[#places + 1] = place_of(args.model, waiting_id, known) or false
end
return places

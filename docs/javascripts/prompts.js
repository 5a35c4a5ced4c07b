// The prompts of commands are drawn by the style sheet, so that they are not copied with the command.
for (const prompt of document.querySelectorAll(".highlight .gp")) prompt.textContent = "";
